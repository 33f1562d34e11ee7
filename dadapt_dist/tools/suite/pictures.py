"""U-curves: the loss of AdamW over its learning rate, a level line for each untuned variant."""

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ...monitor.plot import _figure_class
from .statistics import Losses, complete, grid_rows
from .variants import SCHEDULES, VARIANTS, rate_of

COLUMNS = 4
MOST_LINES = 6  # more level lines than these cannot be told apart
_SHOWN = ("auto", "recipe", "released-linear")


def draw(picture: Path, tasks: Sequence[str], losses: Losses, seeds: Sequence[int]) -> Path:
    """One plot for each task; the y axis ends at twice the best loss, above which AdamW's curve leaves the picture."""
    rows = -(-len(tasks) // COLUMNS)
    figure = _figure_class()(figsize=(4 * COLUMNS, 3 * rows + 0.6), layout="constrained")
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
    lowest = min(statistics.fmean(values) for values in rows.values())
    heights = [lowest]
    for schedule in SCHEDULES:
        points = sorted(
            (rate_of(name) or ("", 0.0, ""))[1:2] + (values,)
            for name, values in rows.items()
            if name.endswith(schedule)
        )
        means = [statistics.fmean(values) for _, values in points]
        axis.plot([rate for rate, _ in points], means, marker="o", markersize=3, label=f"AdamW, {schedule}")
        axis.fill_between(
            [rate for rate, _ in points], *zip(*[(min(v), max(v)) for _, v in points], strict=True), alpha=0.2
        )
        heights += means
    for i, name in enumerate(lines):
        values = complete(losses, task, name, seeds)
        level = statistics.fmean(values) if values else float("nan")
        axis.axhline(level, color=f"C{i + 2}", linestyle="--", linewidth=1.2, label=name)
        heights += [level] if values else []
    top = min(max(heights), 2 * lowest)
    axis.set(title=task, xscale="log", xlabel="AdamW's learning rate", ylabel="loss")
    axis.set_ylim(lowest - 0.1 * (top - lowest), top)
    axis.grid(alpha=0.3)
