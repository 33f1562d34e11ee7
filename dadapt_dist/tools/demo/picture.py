"""Draw a run: its loss, d and learning rates over the steps and, where AdamW's losses are stored, its place beside them."""

from pathlib import Path
from typing import Any

from ...monitor.find_runs import open_runs
from ...monitor.plot import D_PANEL, LOSS_PANEL, RATE_PANEL, draw, figure_class, plain, readable, save
from .curve import Stored
from .settings import Settings
from .wording import HELD_OUT_AXIS, LOSS_AXIS, STEP_AXIS, placed


def draw_run(settings: Settings, bits: float, stored: Stored | None) -> Path:
    """Draw a finished run into its folder; returns the picture's path.

    Raises:
        ImportError: matplotlib is not installed.
    """
    picture = settings.folder / "loss_and_d.png"
    save(figure_of(settings, bits, stored), picture)
    return picture


def figure_of(settings: Settings, bits: float, stored: Stored | None) -> Any:
    """The figure of a run; bits: its held-out loss in bits per byte."""
    (run,) = (readable(log) for log in open_runs([settings.folder / "metrics.jsonl"]))
    panels = [panel for panel in (LOSS_PANEL, D_PANEL, RATE_PANEL) if any(map(run.columns.parts, panel))]
    count = len(panels) + (stored is not None)
    rows = -(-count // 2)
    figure = figure_class()(figsize=(11, 0.8 + 3.1 * rows), layout="constrained")
    figure.suptitle(plain(f"{settings.method}, {placed(settings.sharding, settings.nproc)}: {settings.steps} steps"))
    axes = list(figure.subplots(rows, 2, squeeze=False).flatten())
    if stored is not None:
        _draw_curve(axes.pop(0), settings, bits, stored)
    for axis, panel in zip(axes, panels, strict=False):
        draw(axis, [run], panel)
        axis.set_xlabel(STEP_AXIS)
        if panel == LOSS_PANEL:
            axis.set_ylabel(LOSS_AXIS)
    for axis in axes[len(panels) :]:
        axis.set_axis_off()
    return figure


def _draw_curve(axis: Any, settings: Settings, bits: float, stored: Stored) -> None:
    rates, losses = zip(*stored.curve, strict=True)
    seeds = len(stored.table["seeds"])
    axis.plot(rates, losses, marker="o", color="C1", label=f"AdamW, stored: means of {seeds} seeds")
    if stored.prodigy is not None:
        label = f"Prodigy, stored: mean of {seeds} seeds"
        axis.axhline(stored.prodigy, color="C0", linestyle="--", linewidth=1.2, label=label)
    axis.axhline(bits, color="C0", linewidth=1.6, label=plain(f"{settings.method}, this run: {bits:.3f}"))
    axis.set(xscale="log", xlabel="AdamW's learning rate (units of the weights)", ylabel=HELD_OUT_AXIS)
    axis.set_xticks(rates, [f"{rate:g}" for rate in rates], fontsize="small", rotation=30)
    axis.minorticks_off()
    axis.legend(fontsize="small")
    axis.grid(alpha=0.3)
