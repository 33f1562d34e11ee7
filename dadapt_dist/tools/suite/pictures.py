"""U-curves: the loss of tuned optimizers over their learning rate, a level line for each untuned one."""

import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .statistics import Losses, complete, grid_rows
from .variants import SCHEDULES, VARIANTS, rate, rate_of

COLUMNS = 4
MOST_LINES = 6  # more level lines than these cannot be told apart
HIGHEST = 2.0  # of the lowest loss: the y axis ends there
_SHOWN = ("auto", "recipe", "released-linear", "cap0.2-d1e-6", "cap0.2-d1e-4", "nocap-d1e-4")


def draw(picture: Path, tasks: Sequence[str], losses: Losses, seeds: Sequence[int]) -> Path:
    """One plot for each task; the y axis ends at twice the best loss, above which AdamW's curve leaves the picture."""
    Figure = figure_class()
    rows = -(-len(tasks) // COLUMNS)
    figure = Figure(figsize=(4 * COLUMNS, 3 * rows + 0.6), layout="constrained")
    axes = figure.subplots(rows, COLUMNS, squeeze=False).flatten()
    lines = _lines(losses)
    for axis, task in zip(axes, tasks, strict=False):
        _plot(axis, task, lines, losses, seeds)
    for axis in axes[len(tasks) :]:
        axis.set_axis_off()
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    figure.savefig(picture, dpi=100)
    return picture


def figure_class() -> Any:
    """matplotlib's Figure: without pyplot there is no window and no global state. ImportError says what to install."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("pictures need matplotlib: pip install dadapt-dist[suite]") from error
    return Figure


def _lines(losses: Losses) -> list[str]:
    """Variants to be drawn: those of `_SHOWN`, then others in the order of the table."""
    found = {variant for _, variant in losses if rate_of(variant) is None}
    first = [name for name in (*_SHOWN, *VARIANTS) if name in found]
    return list(dict.fromkeys([*first, *sorted(found)]))[:MOST_LINES]


def _plot(axis: Any, task: str, lines: Sequence[str], losses: Losses, seeds: Sequence[int]) -> None:
    rows = grid_rows(losses, task, "adamw", seeds)
    means = []
    for schedule in SCHEDULES:
        points = {rate(name): values for name, values in rows.items() if name.endswith(f" {schedule}")}
        means += curve(axis, f"AdamW, {schedule}", points)
    for i, name in enumerate(lines):
        means += level(axis, name, complete(losses, task, name, seeds), i + 2)
    frame(axis, task, means, "AdamW's learning rate")


def curve(axis: Any, label: str, points: Mapping[float, Sequence[float]]) -> list[float]:
    """Draw the mean over the seeds by learning rate, and a band from the least to the largest; returns the means.

    A rate at which a run diverged, with a loss that is not finite, is left out.
    """
    kept = {at: values for at, values in sorted(points.items()) if all(map(math.isfinite, values))}
    means = [statistics.fmean(values) for values in kept.values()]
    axis.plot([*kept], means, marker="o", markersize=3, label=label)
    axis.fill_between([*kept], [*map(min, kept.values())], [*map(max, kept.values())], alpha=0.2)
    return means


def level(axis: Any, label: str, losses: Sequence[float] | None, color: int) -> list[float]:
    """Draw a level line at the mean of losses, if they are there and finite; returns it, in a list."""
    mean = statistics.fmean(losses) if losses else math.nan
    axis.axhline(
        mean if math.isfinite(mean) else math.nan, color=f"C{color}", linestyle="--", linewidth=1.2, label=label
    )
    return [mean] if math.isfinite(mean) else []


def frame(axis: Any, title: str, means: Sequence[float], over: str, highest: float = HIGHEST) -> None:
    """Title, scales and labels. The y axis ends at `highest` times the lowest mean, where that is above 0."""
    axis.set(title=title, xscale="log", xlabel=over, ylabel="loss")
    if means:
        lowest, top = min(means), max(means)
        top = min(top, highest * lowest) if lowest > 0 else top
        room = (top - lowest) or abs(lowest) or 1.0
        axis.set_ylim(lowest - 0.1 * room, top + (0.0 if top > lowest else room))
    axis.grid(alpha=0.3)
