"""The command `dadapt-dist suite`: check what is asked, do what is missing, write the report."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from ...files.bounded_read import read_json_object
from . import catalogue, store, variants
from .pool import run_all
from .rates import parse_rates
from .report import report
from .task import Task
from .train import Run
from .users import look_here

LONGEST = 100_000
SEEDS = 3


@dataclass(frozen=True)
class Request:
    """What the command line asks for, as typed."""

    out: Path
    tasks: str = "all"
    variants: str = variants.USUAL
    optimizers: Sequence[str] = ()
    seeds: int | None = None  # SEEDS; for a report alone as many as are there
    steps: int | None = None
    length: float | None = None
    rates: str | None = None
    jobs: int | None = None
    only_report: bool = False


def run_suite(request: Request, console: Console) -> int:
    """Do the runs that --out lacks and write its report; returns the exit code.

    Raises ValueError for what cannot work, before anything runs.
    """
    _check(request)
    if request.only_report and not (request.out / "suite.json").exists():
        raise ValueError(f"--out {request.out} is no folder of the suite: give one that a start of it has made")
    look_here()
    runs = _runs(request)
    _try_optimizers(runs)
    shared = _settings(request)
    results = store.Store(request.out, shared)
    missing = [] if request.only_report else results.missing(runs)
    jobs = request.jobs or os.cpu_count() or 1
    console.print(
        f"suite: {len(runs)} runs, {len(runs) - len(missing)} of them done; {jobs} processes; {request.out}",
        markup=False,
    )
    try:
        if missing:
            run_all(missing, min(jobs, len(missing)), request.out, results.add, console)
    except KeyboardInterrupt:
        console.print(f"stopped: what is done is in {request.out}; the same command goes on", markup=False)
        return 130
    seeds = request.seeds or (
        1 + max((seed for *_, seed in results.records), default=0) if request.only_report else SEEDS
    )
    for path in report(request.out, results.records.values(), shared, range(seeds)):
        console.print(f"report: {path}", markup=False)
    return 0


def _check(request: Request) -> None:
    if request.jobs is not None and request.jobs < 1:
        raise ValueError(f"--jobs {request.jobs} must be at least 1")
    if request.seeds is not None and request.seeds < 1:
        raise ValueError(f"--seeds {request.seeds} must be at least 1")
    if request.steps is not None and request.length is not None:
        raise ValueError("give --steps or --length, not both")
    if request.steps is not None and not 1 <= request.steps <= LONGEST:
        raise ValueError(f"--steps {request.steps} must be from 1 to {LONGEST}")
    if request.length is not None and not 0 < request.length <= 100:
        raise ValueError(
            f"--length {request.length} must be above 0 and at most 100: a factor on each task's usual steps"
        )


def _settings(request: Request) -> dict[str, Any]:
    """What all runs of --out share; a report takes the length and the versions as they are there."""
    if not request.only_report:
        return store.settings(_length(request))
    return {**read_json_object(request.out / "suite.json"), "suite": store.VERSION}


def _length(request: Request) -> str:
    if request.steps is not None:
        return f"{request.steps} steps"
    return "usual" if request.length in (None, 1.0) else f"{request.length:g} of usual"


def _steps(task: Task, request: Request) -> int:
    return request.steps or max(1, round(task.steps * (request.length or 1.0)))


def _runs(request: Request) -> list[Run]:
    """Every run that is asked for: task by task, AdamW first, seeds innermost."""
    chosen, given = (
        variants.select(request.variants, request.optimizers),
        None if request.rates is None else parse_rates(request.rates, "--rates"),
    )
    baselines = ["adamw", *dict.fromkeys(variant.baseline for variant in chosen if variant.baseline != "adamw")]
    runs = []
    for task in catalogue.select(request.tasks):
        steps = _steps(task, request)
        grids = [row for baseline in baselines for row in variants.grid(task, steps, baseline, given)]
        runs += [
            Run(task.name, row, seed, steps) for row in (*grids, *chosen) for seed in range(request.seeds or SEEDS)
        ]
    return runs


def _try_optimizers(runs: Sequence[Run]) -> None:
    """Make each untuned optimizer once, of a small parameter: wrong options must not be found after an hour."""
    from torch import nn

    for variant in {run.variant.name: run.variant for run in runs}.values():
        if variant.optimizer == "AdamW":
            continue
        try:
            variant.make(nn.Linear(2, 1).parameters(), 100)
        except (TypeError, ValueError, AttributeError) as error:
            raise ValueError(f"{variant.name} cannot be made: {error}") from error
