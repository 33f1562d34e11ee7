"""`dadapt-dist doctor`: what is here, and which settings are wrong?"""

import os
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from .. import launch
from . import facts, files

console = Console(soft_wrap=True, highlight=False)
errors = Console(stderr=True, soft_wrap=True, highlight=False)


def doctor(
    configs: Annotated[
        list[Path] | None, typer.Argument(help="DeepSpeed, Accelerate or Trainer configs, as JSON or YAML.")
    ] = None,
    reduce: Annotated[bool, typer.Option(help="Start torch.distributed and time the optimizer's reduce.")] = True,
    timeout: Annotated[float, typer.Option(min=1, help="Seconds to wait for the other ranks.")] = 60,
) -> None:
    """Show what a job would find here, and every setting that makes learning-rate-free training wrong, with its cure.

    Start it as you start your training: torchrun --nproc-per-node 2 -m dadapt_dist doctor ds.json
    """
    try:
        speaks, found = _environment(reduce, timeout)
        wrong = [one for path in configs or [] for one in files.check(path)]
    except (launch.LaunchError, files.UnreadableError, RuntimeError) as error:
        errors.print(f"error: {error}", markup=False)
        raise typer.Exit(2) from None
    if speaks:
        _show(found, wrong)
    raise typer.Exit(int(any(finding.is_error for _, _, findings in wrong for finding in findings)))


def _environment(reduce: bool, timeout: float) -> tuple[bool, facts.Facts]:
    world = launch.detect(os.environ)
    found = facts.environment(world, os.environ)
    if reduce:
        found += facts.reduce(timeout)
    return world.rank == 0, [*found, *facts.versions()]


def _show(found: facts.Facts, wrong: files.Checked) -> None:
    table = Table(show_header=False, box=None, pad_edge=False)
    for name, value in found:
        table.add_row(name, value)
    console.print(table)
    for path, kind, findings in wrong:
        console.print(f"\n{path} ({kind}): {'nothing wrong' if not findings else ''}", markup=False)
        for finding in findings:
            mark = "wrong" if finding.is_error else "better"
            console.print(f"  {mark}: {finding.where}: {finding.problem}; {finding.cure}", markup=False)
