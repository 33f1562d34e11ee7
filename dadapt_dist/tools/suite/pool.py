"""Runs side by side in processes of one thread each, with progress."""

import logging
import multiprocessing
import signal
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

try:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
except ImportError as error:
    raise ImportError("the suite needs rich: pip install dadapt-dist[suite]") from error

from .catalogue import task_of
from .train import Run, train
from .users import said

Record = dict[str, Any]
LOG = "dadapt_dist"


def run_all(runs: list[Run], jobs: int, folder: Path, keep: Callable[[Record], None], console: Console) -> None:
    """Do all runs and hand each record to `keep` as soon as it is there.

    Raises ImportError where data are not installed, ValueError where an optimizer cannot make its run, ChildProcessError
    where a process died; what is done is kept.
    """
    _prepare(dict.fromkeys(run.task for run in runs), folder)
    with _progress(len(runs), console) as advance:
        for record in _one_by_one(runs, folder) if jobs == 1 else _side_by_side(runs, jobs, folder):
            keep(record)
            advance(record)


def _prepare(tasks: Iterable[str], folder: Path) -> None:
    """Read the data of all tasks, so that what is missing is found before an hour of runs, and make the bases."""
    for name in tasks:
        task_of(name).check()
    for name in tasks:
        task_of(name).prepare(folder)  # here once: processes would make the same base at the same time


def _one_by_one(runs: list[Run], folder: Path) -> Iterator[Record]:
    threads, level = torch.get_num_threads(), logging.getLogger(LOG).level
    _quiet()
    try:
        for run in runs:
            yield _named(run, folder)
    finally:
        torch.set_num_threads(threads)
        logging.getLogger(LOG).setLevel(level)


def _side_by_side(runs: list[Run], jobs: int, folder: Path) -> Iterator[Record]:
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, context, _start) as pool:
        futures: list[Future[Record]] = [pool.submit(_named, run, folder) for run in runs]
        try:
            for future in as_completed(futures):
                yield future.result()
        except BrokenProcessPool as error:
            raise ChildProcessError(
                "a process of the suite died; start again to go on, with fewer --jobs if memory is short"
            ) from error
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _start() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's: it lets each finish its run
    _quiet()


def _quiet() -> None:
    torch.set_num_threads(1)
    logging.getLogger(LOG).setLevel(logging.ERROR)  # advice to one user would come from a thousand runs


def _named(run: Run, folder: Path) -> Record:
    try:
        return train(run, folder)
    except (
        Exception
    ) as error:  # a user's code may raise anything; said here, since no traceback comes from another process
        raise ValueError(f"{run.variant.name} cannot run {run.task}: {said(error)}") from error


@contextmanager
def _progress(total: int, console: Console) -> Iterator[Callable[[Record], None]]:
    """A bar on a terminal, else a line for every twentieth of the runs."""
    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"), TimeRemainingColumn())
    done = 0
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        shown = bar.add_task("", total=total)

        def advance(record: Record) -> None:
            nonlocal done
            done += 1
            loss = "diverged" if record["loss"] is None else f"loss {record['loss']:.4g}"
            text = f"{record['task']}  {record['variant']}  seed {record['seed']}  {loss}"
            bar.update(shown, completed=done, description=text)
            if not console.is_terminal and (done == total or done % max(1, total // 20) == 0):
                console.print(f"{done}/{total}  {text}", markup=False)

        yield advance
