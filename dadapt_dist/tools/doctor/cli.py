"""Command `dadapt-dist doctor`; torch is imported when it runs."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from ... import launch
    from . import config_files, environment

console = Console(soft_wrap=True, highlight=False)
errors = Console(stderr=True, soft_wrap=True, highlight=False)


def doctor(
    configs: Annotated[
        list[Path] | None,
        typer.Argument(help="DeepSpeed, Accelerate or Trainer configs, as JSON or YAML.", show_default="none"),
    ] = None,
    reduce: Annotated[bool, typer.Option(help="Start torch.distributed and time the optimizer's reduce.")] = True,
    timeout: Annotated[float, typer.Option(min=1, help="Seconds to wait for the other ranks.")] = 60,
    runs: Annotated[
        list[Path] | None,
        typer.Option(
            "--run",
            help="The log of a run, or its folder: says what went wrong in it. May be given again.",
            show_default="none",
        ),
    ] = None,
) -> None:
    """Show what a job would find here, and every setting that makes learning-rate-free training wrong, with its cure.

    Start it as you start your training: `torchrun --nproc-per-node 2 -m dadapt_dist doctor ds.json`

    With --run and without configs it only reads the logs of runs.
    """
    if runs:
        from .runs import examine

        code = examine(runs, console, _error)
        if not configs:
            raise typer.Exit(code)
    else:
        code = 0
    from . import config_files

    world, found, failed = _environment(reduce, timeout)
    report = config_files.check_all(configs or [])
    if failed is not None:
        _error(failed)
    if world is None or world.rank == 0:
        _show(found, report, verdict=bool(configs))
    raise typer.Exit(max(code, 2 if report.unreadable or failed else int(report.counts()[0] > 0)))


def _error(reason: object) -> None:
    errors.print(f"error: {_line(reason)}", markup=False)


def _line(said: object, most: int = 600) -> str:
    """One line that any terminal takes, whatever a file has put into it."""
    text = " ".join(str(said).split())
    text = "".join(letter if letter.isprintable() else f"\\x{ord(letter):02x}" for letter in text)
    return text if len(text) <= most else f"{text[:most]}..."


def _environment(reduce: bool, timeout: float) -> "tuple[launch.World | None, environment.Facts, Exception | None]":
    """What there is here, and why the ranks did not meet, if so: files can be checked all the same."""
    from ... import launch
    from . import environment

    world: launch.World | None = None
    found: environment.Facts = []
    failed: Exception | None = None
    try:
        world = launch.detect(os.environ)
        found += environment.environment(world, os.environ)
        if reduce:
            found += environment.reduce(timeout)
    except (launch.LaunchError, RuntimeError) as error:
        failed = error
    return world, [*found, *environment.versions()], failed


def _show(found: "environment.Facts", report: "config_files.Report", *, verdict: bool) -> None:
    if report.checked or (found and not report.unreadable):
        table = Table(show_header=False, box=None, pad_edge=False)
        for name, value in found:
            table.add_row(name, value)
        console.print(table)
    for path, kind, findings in report.checked:
        console.print(
            f"\n{_line(path)} ({kind}): {'' if any(not one.is_note for one in findings) else 'nothing wrong'}",
            markup=False,
        )
        for finding in findings:
            console.print(f"  {_line(finding)}", markup=False)
    for reason in report.unreadable:
        _error(reason)
    if verdict:
        console.print(report.verdict(), markup=False)
