"""Plot loss, d and learning rates from the logs of runs, and a schedule that was made of one."""

import logging
import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from . import names
from .find_runs import find_log, open_runs
from .run_log import RunLog
from .without_d import CURE, instead_of_d, rate_label

if TYPE_CHECKING:
    from .refine import Refined

__all__ = ["plot_run", "plot_runs", "plot_schedule"]
LOSS_PANEL, D_PANEL = (names.LOSS,), (names.D,)
RATE_PANEL, NORM_PANEL = (names.EFFECTIVE_LR, names.ADAMW_LR), (names.GRAD_NORM, names.GRAD_NORM_L1)
PANELS: tuple[tuple[str, ...], ...] = (LOSS_PANEL, D_PANEL, RATE_PANEL)
STEP_AXIS = "step (optimizer steps)"
AXES: dict[tuple[str, ...], str] = {
    RATE_PANEL: "learning rate (units of the weights)",
    NORM_PANEL: "norm (loss per unit of the weights)",
}
STYLES = ("-", "--", ":", "-.")
MOST_NAMED = 3  # faulty lines of a log
MOST_POINTS = 2000  # of a line: more cannot be told apart
logger = logging.getLogger(__name__)


def plot_run(log: str | os.PathLike[str], picture: str | os.PathLike[str], *, title: str = "") -> Path:
    """Plot one run, as `plot_runs` does several; returns the picture's path."""
    return plot_runs([log], picture, title=title)


def plot_runs(logs: Sequence[str | os.PathLike[str]], picture: str | os.PathLike[str], *, title: str = "") -> Path:
    """Plot the loss of runs, every d, and d·lr with the AdamW-equivalent learning rate, over the steps; return the picture.

    d and the rates have logarithmic axes. Without d in any of the logs, as with AdamW's, there is the loss alone. A line that is
    no JSON object is left out, and named in a warning of the logger.

    Args:
        logs: Files written by `JsonlWriter`, TensorBoard's event files, or folders with either.
        picture: Where to write; the suffix chooses the format (.png, .pdf, .svg), and .png is added to a name without one.
        title: Title above the loss.

    Raises:
        ImportError: matplotlib is not installed, or tensorboard to read its files.
        OSError: A log cannot be read.
        ValueError: A log has no record with a step, or none with a loss or d, or `picture` is a folder.
    """
    make = figure_class()
    picture = _with_ending(picture)
    runs = [readable(log) for log in open_runs(logs)]
    panels = [panel for panel in PANELS if any(run.columns.parts(name) for run in runs for name in _keys(run, panel))]
    figure = make(figsize=(8, 1 + 2.6 * len(panels)), layout="constrained")
    axes = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
    for axis, panel in zip(axes, panels, strict=True):
        draw(axis, runs, panel)
    axes[0].set_title(plain(title))
    axes[-1].set_xlabel(STEP_AXIS)
    save(figure, picture)
    return picture


def _with_ending(picture: str | os.PathLike[str]) -> Path:
    """The name that matplotlib writes to: it adds an ending where there is none."""
    path = Path(picture)
    if path.is_dir():
        raise ValueError(f"{path} is a folder: name a file, such as {path / 'runs.png'}")
    return path if path.suffix else path.with_name(f"{path.name}.png")


def picture_beside(logs: Sequence[str | os.PathLike[str]]) -> Path:
    """Where the picture of logs goes unless it is said: beside the first, with its name for one and as runs.png for several."""
    log = find_log(logs[0])
    return log.with_suffix(".png") if len(logs) == 1 else log.parent / "runs.png"


def readable(run: RunLog) -> RunLog:
    """A run with something to see; its faulty lines are logged. Raises ValueError for one with neither loss, d nor rate."""
    for fault in run.faults[:MOST_NAMED]:
        logger.warning("%s", fault)
    if len(run.faults) > MOST_NAMED:
        logger.warning("%s has %d more such lines", run.path, len(run.faults) - MOST_NAMED)
    if not run.columns:
        why = f" ({run.faults[0]})" if run.faults else ""
        raise ValueError(
            f"{run.path} holds no record with a step{why}: give the metrics.jsonl of a run that has taken one"
        )
    if not run.columns.loss.finite and not any(map(run.columns.parts, (names.D, names.EFFECTIVE_LR))):
        found = ", ".join(list(run.columns.series)[:8]) or "nothing"
        instead = instead_of_d(run.columns)
        more = f"; {instead}" if instead else ""
        raise ValueError(
            f"{run.path} has neither a loss nor a d nor a learning rate that is finite (it has {found}{more}): "
            f"log loss=..., and {CURE.removeprefix('log ')}"
        )
    return run


def draw(axis: Any, runs: Sequence[RunLog], panel: Sequence[str]) -> None:
    """Draw some quantities of runs over the steps, with a label on the axis and, where there is more than one line, a legend."""
    labels: list[str] = []
    for number, run in enumerate(runs):
        lines = [(key, part, one) for key in _keys(run, panel) for part, one in run.columns.parts(key).items()]
        for place, (key, part, one) in enumerate(lines):
            steps, values = one.thinned(MOST_POINTS)
            style = {"color": f"C{(number if len(runs) > 1 else place) % 10}"}
            if len(runs) > 1:
                style["linestyle"] = STYLES[place % len(STYLES)]
            marker = "o" if len(one.finite) == 1 else ""
            label = _label(run, key, part, several=len(runs) > 1, alone=len(panel) == 1)
            axis.plot(steps, values, label=plain(label), linewidth=1.3, marker=marker, **style)
            labels.append(label)
    quantity = names.QUANTITIES[panel[0]]
    axis.set_ylabel(AXES.get(tuple(panel), quantity.axis))
    if quantity.is_logarithmic and any(value > 0 for line in axis.lines for value in line.get_ydata()):
        axis.set_yscale("log")
    if len(labels) > 1 or any(labels):
        axis.legend(fontsize="small")
    axis.grid(alpha=0.3)


def plain(text: str) -> str:
    """A text that matplotlib shows as it is: no formula, and not hidden from a legend."""
    shown = "".join(letter if letter.isprintable() else "?" for letter in text).replace("$", r"\$")
    return f" {shown}" if shown.startswith("_") else shown


def save(figure: Any, picture: str | os.PathLike[str] | IO[str], **options: Any) -> None:
    """Write a picture; a font that lacks a letter of a name, or an axis without a number, is nothing to warn of."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        figure.savefig(picture, dpi=120, **options)


def plot_schedule(refined: "Refined", picture: str | os.PathLike[str], *, norm: str) -> Path:
    """Plot a schedule beside linear decay, and the smoothed gradient norms that it comes from; return the picture's path.

    Args:
        refined: The schedule.
        picture: Where to write; the suffix chooses the format (.png, .pdf, .svg).
        norm: What the axis of the norms is called.

    Raises:
        ImportError: matplotlib is not installed.
        ValueError: The suffix is of no format.
    """
    figure = figure_class()(figsize=(8, 6), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True)
    above.plot(refined.fractions, refined.multipliers, label="refined", linewidth=1.6)
    above.plot([0, 1], [1, 0], label="linear decay", linestyle="--", linewidth=1.2)
    above.set(ylabel="multiplier of lr", title=refined.linear_because and f"linear decay: {refined.linear_because}")
    above.legend()
    below.plot([i / len(refined.norms) for i in range(len(refined.norms))], refined.norms, linewidth=1.2)
    below.set(xlabel="part of the run", ylabel=norm, yscale="log")
    for axis in (above, below):
        axis.grid(alpha=0.3)
    figure.savefig(picture, dpi=120)
    return Path(picture)


def _keys(run: RunLog, panel: Sequence[str]) -> list[str]:
    """The names of a panel's quantities in this run's log."""
    if panel == LOSS_PANEL:
        return [name for name in names.LOSSES if name in run.columns.series][:1]
    return list(panel)


def _label(run: RunLog, key: str, part: str, *, several: bool, alone: bool) -> str:
    quantity = names.QUANTITIES.get(key)
    words = [run.name] if several else []
    if not alone and quantity is not None:
        words.append(rate_label(run.columns) if key == names.EFFECTIVE_LR else quantity.label)
    return ", ".join([*words, part] if part else words)


def figure_class() -> Any:
    """Import matplotlib's Figure; without pyplot there is no window and no global state."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: F401  (fails early where Agg cannot load)
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("plots need matplotlib: pip install 'dadapt-dist[cli]'") from error
    return Figure
