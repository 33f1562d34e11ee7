"""Say of the logs of runs what went wrong in them: `dadapt-dist doctor --run`."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ...monitor.diagnosis import diagnose, summary, verdict
from ...monitor.find_runs import open_run
from ...monitor.without_d import instead_of_d
from ..printable import printable

if TYPE_CHECKING:
    from rich.console import Console


def examine(paths: Sequence[Path], console: "Console", show_error: Callable[[Exception], None]) -> int:
    """Show the symptoms of every run with the page on each, and a verdict; returns the exit code.

    0: nothing is wrong; 1: something is; 2: a log cannot be read, or has nothing of an optimizer.
    """
    return max(_examine(path, console, show_error) for path in paths)


def _examine(path: Path, console: "Console", show_error: Callable[[Exception], None]) -> int:
    try:
        run = open_run(path)
        symptoms = diagnose(run)
    except (ValueError, OSError, ImportError) as error:
        show_error(error)
        return 2
    instead = instead_of_d(run.columns)
    lines = [
        *([f"note: {instead}"] if instead else []),
        *map(str, symptoms),
        *(f"better: {fault}" for fault in run.faults[:3]),
        verdict(symptoms, run),
    ]
    console.print(printable(f"{run.path}: {summary(run)}"), markup=False)
    for line in lines:
        console.print(f"  {printable(line)}", markup=False)
    return int(any(symptom.is_error for symptom in symptoms))
