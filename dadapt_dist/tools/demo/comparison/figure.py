"""Draw a comparison: d over the steps with all layouts over each other, and how far each is from one process."""

from pathlib import Path
from typing import Any

import torch

from ....monitor.plot import figure_class
from ..text import BATCH
from ..wording import D_AXIS, LAYOUTS, STEP_AXIS, placed
from .logs import Group, Released, Trace
from .plan import PICTURE, Comparison

FLOOR = 1e-17  # where equal bits are drawn: a logarithmic axis has no zero
DEVIATION_AXIS = "relative difference of d\nfrom one process, |d/d$_1$ - 1|"
RELEASED_COLOUR = "C3"
DASHES = ("-", (0, (6, 3)), (0, (2, 2)), (0, (6, 2, 1, 2)))
STYLES = {  # a layout looks the same in every panel: its colour, and which of the dashes
    "fsdp2": ("C0", 0),
    "zero3": ("C1", 1),
    "tp": ("C2", 2),
    "ddp": ("C4", 3),
    "fsdp1": ("C5", 1),
    "hsdp": ("C6", 2),
    "fsdp2+tp": ("C8", 3),
    "zero1": ("C9", 2),
    "zero2": ("C7", 3),
}


def draw_comparison(plan: Comparison, groups: list[Group], released: Released | None) -> Path:
    """Draw into the comparison's folder; returns the picture's path. Raises ImportError without matplotlib."""
    picture = plan.folder / PICTURE
    figure_of(plan, groups, released).savefig(picture, dpi=80)  # small enough for a page
    return picture


def figure_of(plan: Comparison, groups: list[Group], released: Released | None) -> Any:
    """A column for each dtype: d above, its deviations below."""
    figure = figure_class()(figsize=(5.2 * max(len(groups), 1.4), 7.2), layout="constrained")
    figure.suptitle(
        f"{plan.method}: one training ({plan.steps} steps of {BATCH} sequences, seed {plan.seed}) under each layout.\n"
        "Where lines lie on each other, d is the same.",
        fontsize="medium",
    )
    axes = figure.subplots(2, len(groups), sharex=True, sharey="row", squeeze=False, height_ratios=(1, 1.15))
    for column, group in enumerate(groups):
        _draw_d(axes[0, column], group)
        _draw_deviations(axes[1, column], group, released if group.dtype == "float64" else None)
    axes[0, 0].set_ylabel(D_AXIS)
    axes[1, 0].set_ylabel(DEVIATION_AXIS)
    return figure


def _draw_d(axis: Any, group: Group) -> None:
    """The first line is wide and each that follows is narrower: all can be seen where they lie on each other."""
    traces = (group.base, *group.layouts)
    for place, trace in enumerate(traces):
        width = 1.2 + 6 * (1 - place / max(len(traces) - 1, 1))
        style = {"color": "0.8"} if trace is group.base else _style(trace)
        axis.plot(trace.steps, trace.d, linewidth=width, label=placed(trace.name, trace.ranks), **style)
    axis.set(yscale="log", title=group.dtype)
    axis.legend(fontsize="small", loc="lower right")
    axis.grid(alpha=0.3)


def _draw_deviations(axis: Any, group: Group, released: Released | None) -> None:
    steps = group.base.steps
    if released is not None:
        for rank, d in enumerate(released.ranks):
            apart = [abs(mine / theirs - 1) for mine, theirs in zip(d, released.alone, strict=True)]
            label = f"prodigyopt {released.version}, FSDP2, rank {rank}"
            axis.plot(
                steps, _drawn(apart), color=RELEASED_COLOUR, linestyle=DASHES[rank % 2], linewidth=1.3, label=label
            )
    control = _drawn(group.reordered.deviations(group.base))
    axis.plot(steps, control, color="0.6", linewidth=3, label="one process, batch reversed")
    for trace in group.layouts:
        deviations = _drawn(trace.deviations(group.base))
        axis.plot(steps, deviations, linewidth=1.4, label=LAYOUTS[trace.name], **_style(trace))
    epsilon = torch.finfo(getattr(torch, group.dtype)).eps
    label = f"a rounding of {group.dtype}, {epsilon:.0e}"
    axis.axhline(epsilon, color="black", linestyle=":", linewidth=0.9, label=label)
    axis.set(yscale="log", ylim=(FLOOR / 1.5, 10), xlabel=f"{STEP_AXIS}; lower edge: equal bit for bit")
    axis.legend(fontsize="x-small", loc="upper right" if released is None else "center right")
    axis.grid(alpha=0.3)


def _style(trace: Trace) -> dict[str, Any]:
    colour, dash = STYLES[trace.name]
    return {"color": colour, "linestyle": DASHES[dash]}


def _drawn(deviations: list[float]) -> list[float]:
    return [max(value, FLOOR) for value in deviations]
