"""The command `dadapt-dist refine-schedule`: from a log with gradient norms to a schedule and its picture."""

from pathlib import Path
from typing import TYPE_CHECKING

from ..monitor.plot import plot_schedule
from ..monitor.refine import KEYS, Norm, read_norms, refine

if TYPE_CHECKING:
    from rich.console import Console

LONGEST = 10**9


def refine_file(log: Path, norm: str, steps: int | None, smooth: float, out: Path, console: "Console") -> int:
    """Write the schedule and its picture; returns the exit code. Raises ValueError or OSError for what cannot be."""
    which: Norm | None = next((known for known in KEYS if known == norm), None)
    if which is None:
        raise ValueError(f"--norm {norm} must be l1 (Adam, Prodigy and others like them) or l2 (methods like SGD)")
    if steps is not None and not 1 <= steps <= LONGEST:
        raise ValueError(f"--steps {steps} must be from 1 to {LONGEST}: the optimizer steps of the run to come")
    if not 0 <= smooth < 1:
        raise ValueError(f"--smooth {smooth} must be in [0, 1): a part of the run, such as 0.1")
    refined = refine(read_norms(log, which), which, total_steps=steps, smooth=smooth)
    refined.save(out, norm=norm, smooth=smooth, source=str(log))
    kind = "linear decay" if refined.linear_because else f"from {KEYS[which]}"
    console.print(
        f"schedule: {out}, {refined.total_steps} steps, {kind}, largest at {100 * refined.peak:.3g} % of the run",
        markup=False,
    )
    console.print(f"plot: {plot_schedule(refined, out.with_suffix('.png'), norm=KEYS[which])}", markup=False)
    return 0
