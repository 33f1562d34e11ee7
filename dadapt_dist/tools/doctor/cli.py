"""Command `dadapt-dist doctor`; torch is imported when it runs."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from . import config_files, environment

console = Console(soft_wrap=True, highlight=False)
errors = Console(stderr=True, soft_wrap=True, highlight=False)


def doctor(
    configs: Annotated[
        list[Path] | None, typer.Argument(help="DeepSpeed, Accelerate or Trainer configs, as JSON or YAML.")
    ] = None,
    reduce: Annotated[bool, typer.Option(help="Start torch.distributed and time the optimizer's reduce.")] = True,
    timeout: Annotated[float, typer.Option(min=1, help="Seconds to wait for the other ranks.")] = 60,
    runs: Annotated[
        list[Path] | None,
        typer.Option("--run", help="The log of a run, or its folder: says what went wrong in it. May be given again."),
    ] = None,
) -> None:
    """Show what a job would find here, and every setting that makes learning-rate-free training wrong, with its cure.

    Start it as you start your training: torchrun --nproc-per-node 2 -m dadapt_dist doctor ds.json

    With --run and without configs it only reads the logs of runs.
    """
    if runs:
        from .runs import examine

        code = examine(runs, console, _error)
        if not configs:
            raise typer.Exit(code)
    else:
        code = 0
    from ... import launch

    try:
        speaks, found = _environment(reduce, timeout)
    except (launch.LaunchError, RuntimeError) as error:
        _error(error)
        raise typer.Exit(2) from None
    wrong, unreadable = _checked(configs or [])
    if speaks:
        if wrong or not unreadable:
            _show(found, wrong)
        for reason in unreadable:
            _error(reason)
    is_wrong = any(finding.is_error for _, _, findings in wrong for finding in findings)
    raise typer.Exit(max(code, 2 if unreadable else int(is_wrong)))


def _checked(configs: list[Path]) -> "tuple[config_files.Checked, list[config_files.UnreadableError]]":
    """What is wrong in every file that can be read, and why another cannot be."""
    from . import config_files

    wrong: config_files.Checked = []
    unreadable: list[config_files.UnreadableError] = []
    for path in configs:
        found = _or_error(path)
        if isinstance(found, config_files.UnreadableError):
            unreadable.append(found)
        else:
            wrong += found
    return wrong, unreadable


def _or_error(path: Path) -> "config_files.Checked | config_files.UnreadableError":
    from . import config_files

    try:
        return config_files.check(path)
    except config_files.UnreadableError as error:
        return error
    except RecursionError:
        return config_files.UnreadableError(f"{path} is nested too deeply")


def _error(reason: Exception) -> None:
    errors.print(f"error: {_line(reason)}", markup=False)


def _line(said: object, most: int = 600) -> str:
    """One line that any terminal takes, whatever a file has put into it."""
    text = " ".join(str(said).split())
    text = "".join(letter if letter.isprintable() else f"\\x{ord(letter):02x}" for letter in text)
    return text if len(text) <= most else f"{text[:most]}..."


def _environment(reduce: bool, timeout: float) -> "tuple[bool, environment.Facts]":
    from ... import launch
    from . import environment

    world = launch.detect(os.environ)
    found = environment.environment(world, os.environ)
    if reduce:
        found += environment.reduce(timeout)
    return world.rank == 0, [*found, *environment.versions()]


def _show(found: "environment.Facts", wrong: "config_files.Checked") -> None:
    table = Table(show_header=False, box=None, pad_edge=False)
    for name, value in found:
        table.add_row(name, value)
    console.print(table)
    for path, kind, findings in wrong:
        console.print(f"\n{_line(path)} ({kind}): {'nothing wrong' if not findings else ''}", markup=False)
        for finding in findings:
            mark = "wrong" if finding.is_error else "better"
            said = _line(f"{mark}: {finding.where}: {finding.problem}; {finding.cure}")
            console.print(f"  {said}", markup=False)
