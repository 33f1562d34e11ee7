"""Run `dadapt-dist demo --compare`: the same training under each layout, one after another, and what their d has in common."""

import os
import signal
from typing import Any

import torch
from rich.console import Console

from ..elastic import launch
from ..settings import SHARDINGS, Settings
from ..wording import placed
from .logs import read_groups, read_released
from .plan import BASE, RELEASED, Comparison
from .table import apart, group_table, sentences, steps_table

__all__ = ["run_comparison"]
QUICK = "; on two CPU cores each takes 5 to 25 seconds"


def run_comparison(names: str, given: dict[str, Any], console: Console) -> int:
    """Do the runs that --out lacks and show what they found.

    Returns 0; the code of the first run that failed; or 1 if the ranks of a run did not hold the same d. Raises ValueError for
    options that cannot work, before anything runs.
    """
    plan = Comparison.of(names, given)
    plan.save()
    _share_the_machine_alike(plan)
    code = _do(plan, console)
    if code:
        hint = f" --out {plan.out}" if plan.out != Comparison.out else ""
        line = f"dadapt-dist demo --compare {names} --resume{hint}"
        console.print(f"ended early (exit code {code}); continue with: {line}", markup=False)
        return code
    return _show(plan, console)


def _share_the_machine_alike(plan: Comparison) -> None:
    """All runs take as many threads each, and GPUs only if there are enough for all of them."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    if torch.cuda.device_count() < max(SHARDINGS[name][0] for name in plan.layouts):
        os.environ["CUDA_VISIBLE_DEVICES"] = ""


def _do(plan: Comparison, console: Console) -> int:
    runs, released = plan.runs(), _released(plan)
    jobs = [
        (f"{run.dtype}, {run.label}", "dadapt_dist.tools.demo.train", run.settings) for run in runs if not run.is_done
    ]
    jobs += [
        (f"{one.dtype}, {RELEASED} by itself, {placed(one.sharding, one.nproc)}", f"{__package__}.released", one)
        for one in released
        if not (one.folder / f"{one.sharding}.json").is_file()
    ]
    total = len(runs) + len(released)
    console.print(
        f"{plan.method} under {', '.join(plan.layouts)}: {total} runs of {plan.steps} steps one after another, "
        f"{total - len(jobs)} of them done{QUICK if (plan.steps, plan.size) == (Comparison.steps, Comparison.size) else ''}",
        markup=False,
    )
    try:
        for number, (label, module, settings) in enumerate(jobs, start=total - len(jobs) + 1):
            console.print(f"{number}/{total}  {label}: starting", markup=False)
            code = launch(module, settings.arguments(), settings.nproc)
            if code:
                return code
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    return 0


def _released(plan: Comparison) -> list[Settings]:
    """The runs of prodigyopt's own class."""
    if not plan.compares_released:
        return []
    same: dict[str, Any] = {"steps": plan.steps, "size": plan.size, "seed": plan.seed, "text": plan.text}
    out = str(plan.folder / RELEASED)
    return [
        Settings(**same, sharding=name, nproc=SHARDINGS[name][0], dtype="float64", out=out) for name in (BASE, "fsdp2")
    ]


def _show(plan: Comparison, console: Console) -> int:
    groups, released = read_groups(plan), read_released(plan.folder)
    console.print()
    for table in (*map(group_table, groups), steps_table(groups)):
        console.print(table)
    for line in sentences(groups, released):
        console.print(f"- {line}", markup=False)
    try:
        from .figure import draw_comparison

        console.print(f"plot: {draw_comparison(plan, groups, released)}", markup=False)
    except ImportError as error:
        console.print(f"no plot: {error}", markup=False)
    console.print(f"logs of all runs: {plan.folder}", markup=False)
    return 1 if apart(groups) else 0
