"""A pool of ranks that run test functions without the cost of starting processes each time.

A `WorkerPool` holds one process per rank, joined in a gloo group on the loopback interface. `pool.run(fn, ...)` calls
`fn(...)` on every rank and returns the results in rank order; `fn` reads its rank from `torch.distributed`.

How functions reach the workers: they are pickled by name, so `fn` is a top-level function of an importable module.
`tests` is a package and pytest puts the repository root on `sys.path`; workers receive the same `sys.path`, hence
`tests.test_something.fn` resolves there as it does here. Arguments and results travel by value: a tensor changed in a
worker never changes here. A DTensor holds a process group and cannot travel: return its `full_tensor()`.

Why a fork server: it is a fresh process that has imported torch once and never ran an operation, so forking it is quick
and safe; forking pytest itself would copy a process whose torch threads may hold locks.
"""

import contextlib
import os
import pickle
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from multiprocessing import get_context
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, TypeVar

import pytest
import torch
import torch.distributed as dist

from .worker import LOOPBACK, serve

T = TypeVar("T")

CALL_TIMEOUT = 240.0 if "TEST_EVERY_METHOD" in os.environ else 60.0  # one call then takes many methods
START_TIMEOUT = 60.0
# After the first failure the other ranks get this long to fail as well, so that the report can show all of them.
GRACE = 0.5
OLDER_TORCH = torch.__version__ < "2.7"  # of which FSDP2 asks the CPU for events, and takes no weights of integers
NO_FSDP2_ON_CPU = (
    "'Stream' object has no attribute 'record_event'",
    "only Tensors of floating point dtype can require gradients",
)
# Groups and meshes made by a call stay open: measured, one 2 x 2 mesh leaves 6 threads and 10 descriptors on each rank.
# Fresh processes after this many calls keep both bounded.
CALLS_PER_LIFE = 50
# What nearly every distributed test imports; the fork server imports it once for all ranks of all pools.
PRELOAD = (
    "pytest",
    "torch",
    "torch.distributed",
    "torch.distributed.checkpoint.state_dict",
    "torch.distributed.fsdp",
    "torch.distributed.pipelining",
    "torch.distributed.tensor.debug",
    "torch.distributed.tensor.parallel",
    "torch.optim",
)

_context = get_context("forkserver")
_context.set_forkserver_preload(list(PRELOAD))


class WorkerFailed(RuntimeError):
    """A rank died, fell silent, or raised something that cannot be pickled."""


class RemoteTraceback(Exception):
    """Stands as the `__cause__` of an exception raised in a worker and shows where in the worker it was raised."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text

    def __str__(self) -> str:
        return f"\n{self.text}"


class _Worker:
    """One rank: its process, the pipe to it, and the file its stack is written to when it falls silent."""

    def __init__(self, rank: int, world_size: int, port: int, folder: Path) -> None:
        self.rank = rank
        self.stack_file = folder / f"stack{rank}"
        self.pipe, theirs = _context.Pipe()
        self.process: BaseProcess = _context.Process(
            target=serve, args=(rank, world_size, port, theirs, str(self.stack_file)), daemon=True
        )
        self.process.start()
        theirs.close()

    def stack(self) -> str:
        """Python stack of a silent worker, as far as it can still be had."""
        if self.process.pid is None or not self.process.is_alive():
            return ""
        os.kill(self.process.pid, signal.SIGUSR1)
        for _ in range(20):
            time.sleep(0.05)
            if text := self.stack_file.read_text():
                return text
        return ""

    def end(self) -> None:
        self.process.kill()
        self.process.join()
        self.pipe.close()
        self.process.close()


class WorkerPool:
    """`world_size` processes in one gloo group, started at the first `run` and again when needed.

    Between successful calls the processes stay, with their default group and whatever a call left behind; after
    `calls_per_life` calls (CALLS_PER_LIFE unless given) new ones take over. A failing rank leaves its peers inside a
    collective, so any failure ends all processes: the next `run` starts anew and one test's hang never reaches another test.
    """

    def __init__(self, world_size: int, calls_per_life: int | None = None) -> None:
        self.world_size, self.calls_per_life = world_size, calls_per_life
        self._workers: list[_Worker] = []
        self._calls = 0
        self._store: dist.TCPStore | None = None
        self._folder: tempfile.TemporaryDirectory[str] | None = None

    @property
    def pids(self) -> list[int | None]:
        """Process ids in rank order; empty while nothing runs."""
        return [worker.process.pid for worker in self._workers]

    def run(self, fn: Callable[..., T], *args: Any, timeout: float = CALL_TIMEOUT, **kwargs: Any) -> list[T]:
        """Call `fn(*args, **kwargs)` on every rank and return the results in rank order.

        Raises the exception of the rank that failed first (its `__cause__` shows every failed rank's traceback), or
        `WorkerFailed` when a rank died or did not answer within `timeout` seconds.
        """
        message = pickle.dumps((fn, args, kwargs))
        if self._calls >= (self.calls_per_life or CALLS_PER_LIFE):
            self.close()
        if not self._workers:
            self._start()
        self._calls += 1
        try:
            for worker in self._workers:
                with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # a dead rank is reported by _answers
                    worker.pipe.send_bytes(message)
            return self._answers(timeout)
        except BaseException:  # also a test's own time limit, or Ctrl-C: the ranks are then in an unknown place
            self.close()
            raise

    def close(self) -> None:
        """End all processes. The pool can be used again: the next `run` starts new ones."""
        for worker in self._workers:
            worker.end()
        self._workers = []
        self._calls = 0
        self._store = None
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None

    def _start(self) -> None:
        # The store lives here with a port chosen by the system: nobody can take the port between choice and use.
        self._store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        self._folder = tempfile.TemporaryDirectory(prefix="pool")
        try:
            with _environment(OMP_NUM_THREADS="1", MKL_NUM_THREADS="1", GLOO_SOCKET_IFNAME=LOOPBACK):
                for rank in range(self.world_size):
                    self._workers.append(_Worker(rank, self.world_size, self._store.port, Path(self._folder.name)))
            self._answers(START_TIMEOUT)
        except BaseException:
            self.close()
            raise

    def _answers(self, timeout: float) -> list[Any]:
        """One answer per rank, or the exception that tells best what went wrong."""
        results: dict[int, Any] = {}
        failures: list[tuple[int, BaseException | None, str]] = []
        deadline = time.monotonic() + timeout
        while len(results) + len(failures) < self.world_size:
            seen = results.keys() | {rank for rank, _, _ in failures}
            open_pipes = {worker.pipe: worker for worker in self._workers if worker.rank not in seen}
            ready = wait(list(open_pipes), max(0.0, deadline - time.monotonic()))
            if not ready:
                if not failures:
                    raise WorkerFailed(self._silence(list(open_pipes.values()), timeout))
                break
            for pipe in ready:
                worker = open_pipes[pipe]  # type: ignore[index]
                good, value = _receive(worker)
                if good:
                    results[worker.rank] = value
                else:
                    failures.append((worker.rank, *value))
                    deadline = min(deadline, time.monotonic() + GRACE)
        if failures:
            self._raise(failures)
        return [results[rank] for rank in range(self.world_size)]

    def _silence(self, workers: list[_Worker], timeout: float) -> str:
        ranks = ", ".join(str(worker.rank) for worker in workers)
        lines = [f"rank {ranks} of {self.world_size} did not answer in {timeout:g} s"]
        for worker in workers:
            lines += [f"rank {worker.rank} stands at:", worker.stack().rstrip() or "  (no stack)"]
        return "\n".join(lines)

    def _raise(self, failures: list[tuple[int, BaseException | None, str]]) -> None:
        text = "\n".join(f"rank {rank} of {self.world_size}: {text}" for rank, _, text in failures)
        errors = [error for _, error, _ in failures if error is not None]
        if len(errors) < len(failures):  # a rank died: that its peers lost the connection is a consequence
            raise WorkerFailed(text)
        if OLDER_TORCH and all(any(text in str(error) for text in NO_FSDP2_ON_CPU) for error in errors):
            pytest.skip("torch before 2.7 runs no FSDP2 on the CPU")
        raise errors[0] from RemoteTraceback(text)


def _receive(worker: _Worker) -> tuple[bool, Any]:
    """The worker's answer: (True, result) or (False, (exception or None, text))."""
    try:
        good, value = pickle.loads(worker.pipe.recv_bytes())
    except (EOFError, ConnectionResetError):
        worker.process.join(1.0)
        return False, (None, f"died with exit code {worker.process.exitcode}")
    return good, value


@contextlib.contextmanager
def _environment(**values: str) -> Iterator[None]:
    """Set variables that the fork server inherits at its start, then restore what was there."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
