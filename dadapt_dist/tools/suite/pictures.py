"""U-curves: the loss of AdamW over its learning rate, a level line for each untuned variant."""

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
    try:
        from matplotlib.figure import Figure  # without pyplot there is no window and no global state
    except ImportError as error:
        raise ImportError("pictures need matplotlib: pip install dadapt-dist[suite]") from error
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


def _lines(losses: Losses) -> list[str]:
    """Variants to be drawn: those of `_SHOWN`, then others in the order of the table."""
    found = {variant for _, variant in losses if rate_of(variant) is None}
    first = [name for name in (*_SHOWN, *VARIANTS) if name in found]
    return list(dict.fromkeys([*first, *sorted(found)]))[:MOST_LINES]


def _plot(axis: Any, task: str, lines: Sequence[str], losses: Losses, seeds: Sequence[int]) -> None:
    rows = grid_rows(losses, task, "adamw", seeds)
    heights = [_curve(axis, schedule, rows) for schedule in SCHEDULES]
    levels = [complete(losses, task, name, seeds) for name in lines]
    means = [statistics.fmean(level) if level else math.nan for level in levels]
    for i, (name, mean) in enumerate(zip(lines, means, strict=True)):
        axis.axhline(mean, color=f"C{i + 2}", linestyle="--", linewidth=1.2, label=name)
    known = [mean for mean in (*means, *(height for curve in heights for height in curve)) if not math.isnan(mean)]
    lowest = min(known)
    top = min(max(known), HIGHEST * lowest)
    axis.set(title=task, xscale="log", xlabel="AdamW's learning rate", ylabel="loss")
    axis.set_ylim(lowest - 0.1 * (top - lowest), top)
    axis.grid(alpha=0.3)


def _curve(axis: Any, schedule: str, rows: Mapping[str, list[float]]) -> list[float]:
    """Draw the mean over the seeds, and a band from the least to the largest; returns the means."""
    points = sorted((rate(name), values) for name, values in rows.items() if name.endswith(f" {schedule}"))
    rates, means = [at for at, _ in points], [statistics.fmean(values) for _, values in points]
    axis.plot(rates, means, marker="o", markersize=3, label=f"AdamW, {schedule}")
    axis.fill_between(rates, [min(values) for _, values in points], [max(values) for _, values in points], alpha=0.2)
    return means
