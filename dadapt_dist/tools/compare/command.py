"""The command `dadapt-dist compare`: check what is asked, do what is missing, show what came of it."""

import hashlib
import importlib.util
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import nn

from ...files.bounded_read import read_json_object
from ...files.whole_write import write_whole
from ..suite.catalogue import task_of
from ..suite.pictures import figure_class
from ..suite.pool import run_all
from ..suite.store import Store, versions
from ..suite.task import Task
from ..suite.train import Run
from ..suite.users import look_here, said
from . import contenders
from .contenders import Contender
from .report import report

VERSION = 1  # raised when the training of a run changes
SEEDS = 3
METHODS, TUNED = ("prodigy:recipe=auto",), ("adamw",)
LONGEST = 10**7


@dataclass(frozen=True)
class Request:
    """What the command line asks for, as typed."""

    task: str
    out: Path
    methods: Sequence[str] = METHODS
    tuned: Sequence[str] = TUNED
    rates: str = contenders.RATES
    schedule: str = "warmup"
    steps: int | None = None
    seeds: int = SEEDS
    jobs: int | None = None


def run_compare(request: Request, console: Console, errors: Console) -> int:
    """Do the runs that --out lacks, with progress on `errors`, and show the table; returns the exit code.

    Raises ValueError or ImportError for what cannot work, before anything runs.
    """
    _check(request)
    figure_class()
    look_here()
    rows = _contenders(request)
    task = _task(request.task)
    steps = _steps(task, request)
    based = type(task).prepare is not Task.prepare  # begins from a model that is trained first, into the folder
    if not based:
        _try(task, rows, steps)
    # Seeds outermost: every contender has been tried after the first of them.
    runs = [
        Run(task.name, variant, seed, steps)
        for seed in range(request.seeds)
        for row in rows
        for variant in row.variants
    ]
    results = Store(request.out, _shared(task, steps), "compare")
    if based:
        task.prepare(request.out)
        _try(task, rows, steps)
    _note_source(request, task, errors)
    missing, jobs = results.missing(runs), request.jobs or os.cpu_count() or 1
    errors.print(
        f"compare: {len(runs)} runs of {steps} steps, {len(runs) - len(missing)} of them done; {jobs} processes; {request.out}",
        markup=False,
    )
    try:
        if missing:
            run_all(missing, min(jobs, len(missing)), request.out, results.add, errors)
    except KeyboardInterrupt:
        errors.print(f"stopped: what is done is in {request.out}; the same command goes on", markup=False)
        return 130
    text, files = report(request.out, task, rows, results.records, steps, range(request.seeds))
    console.print(text, markup=False)
    for path in files:
        console.print(f"report: {path}", markup=False)
    return 0


def _check(request: Request) -> None:
    if request.jobs is not None and request.jobs < 1:
        raise ValueError(f"--jobs {request.jobs} must be at least 1")
    if request.seeds < 1:
        raise ValueError(f"--seeds {request.seeds} must be at least 1")
    if request.steps is not None and not 1 <= request.steps <= LONGEST:
        raise ValueError(f"--steps {request.steps} must be from 1 to {LONGEST}")


def _contenders(request: Request) -> list[Contender]:
    schedule = contenders.check_schedule(request.schedule, "--schedule")
    rows = [contenders.tuned(text, schedule, request.rates) for text in request.tuned if text != "none"]
    rows += [contenders.untuned(text, schedule) for text in request.methods if text != "none"]
    if not rows:
        raise ValueError("there is nothing to compare: give --method or --tuned")
    names = [variant.name for row in rows for variant in row.variants]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ValueError(f"{twice} is given twice: leave one out")
    return rows


def _task(name: str) -> Task:
    """The task, tried once. Raises ValueError, with the line of the user's file, for one that does not work."""
    task = task_of(name)
    try:
        task.check()
    except ImportError:
        raise
    except Exception as error:  # a user's code may raise anything
        raise ValueError(f"{name} does not work: {said(error)}") from error
    return task


def _steps(task: Task, request: Request) -> int:
    found: int | None = request.steps or getattr(task, "steps", None)
    if found is None:
        raise ValueError(
            f"--steps is missing: how many optimizer steps has a run of {task.name}? For instance --steps 1000"
        )
    return found


def _try(task: Task, rows: Sequence[Contender], steps: int) -> None:
    """Make an optimizer of each row: wrong options must not be found after an hour."""
    with torch.random.fork_rng(devices=[]):
        params = [p for p in task.begin(0).model.parameters() if p.requires_grad]
    for row in rows:
        _made(row, params, steps)


def _made(row: Contender, params: list[nn.Parameter], steps: int) -> None:
    try:
        row.variants[0].make(params, steps)
    except Exception as error:  # a user's code may raise anything
        raise ValueError(f"{row.label} cannot be made: {said(error)}") from error


def _shared(task: Task, steps: int) -> dict[str, Any]:
    """What all runs of a folder share."""
    return {"compare": VERSION, "task": task.name, "steps": steps, **versions()}


def _note_source(request: Request, task: Task, errors: Console) -> None:
    """Say when the user's file has changed since the first runs of the folder."""
    spec = importlib.util.find_spec(task.name.partition(":")[0]) if ":" in task.name else None
    if spec is None or spec.origin is None:
        return
    digest, path = hashlib.sha256(Path(spec.origin).read_bytes()).hexdigest(), request.out / "source.json"
    if not path.exists():
        write_whole(path, f'{{"sha256": "{digest}"}}\n')
    elif read_json_object(path).get("sha256") != digest:
        errors.print(
            f"warning: {spec.origin} has changed since the first runs in {request.out}: where that changes the task, give "
            "another --out",
            markup=False,
        )
