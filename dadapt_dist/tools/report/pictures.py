"""Draw the pictures of a report as SVG that stands in the page itself and takes its colours."""

import io
import itertools
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from ...monitor import names
from ...monitor.plot import D_PANEL, LOSS_PANEL, NORM_PANEL, RATE_PANEL, STEP_AXIS, draw, figure_class, save
from ...monitor.run_log import RunLog

INK = "#010203"  # stands for the colour of the page's text until the picture is drawn
PANELS = {
    "loss": LOSS_PANEL,
    "d": D_PANEL,
    "learning rates": RATE_PANEL,
    "norms of the gradients": NORM_PANEL,
    "held steps": (names.HELD_STEPS,),
}
ANYWAY = ("loss", "d")


class Picture(NamedTuple):
    """A picture of the report. svg: markup; None where no run has what it shows."""

    title: str
    svg: str | None


def pictures(logs: Sequence[RunLog]) -> list[Picture]:
    """The pictures of runs, each over their steps; of what no run has logged only loss and d are there, without a picture."""
    numbers = itertools.count(1)
    drawn = [Picture(title, _svg(logs, panel, f"p{next(numbers)}-")) for title, panel in PANELS.items()]
    return [picture for picture in drawn if picture.svg or picture.title in ANYWAY]


def _svg(logs: Sequence[RunLog], panel: Sequence[str], prefix: str) -> str | None:
    keys = names.LOSSES if panel == LOSS_PANEL else panel
    if not any(log.columns.parts(key) for log in logs for key in keys):
        return None
    Figure = figure_class()
    from matplotlib import rc_context

    with rc_context({"svg.fonttype": "none", "svg.hashsalt": prefix, "font.size": 11}):
        figure = Figure(figsize=(7.2, 3.4), layout="constrained")
        axis = figure.subplots()
        draw(axis, logs, panel)
        axis.set_xlabel(STEP_AXIS)
        _ink(figure, axis)
        file = io.StringIO()
        save(figure, file, format="svg", transparent=True)
    return _inline(file.getvalue(), prefix)


def _ink(figure: Any, axis: Any) -> None:
    """Draw everything but the lines in the colour of the page's text."""
    for spine in axis.spines.values():
        spine.set_color(INK)
    for which in ("major", "minor"):
        axis.tick_params(which=which, colors=INK)
    for text in (axis.xaxis.label, axis.yaxis.label):
        text.set_color(INK)
    axis.grid(alpha=0.25, color=INK)
    legend = axis.get_legend()
    if legend is not None:
        legend.get_frame().set(facecolor="none", edgecolor="none")
        for text in legend.get_texts():
            text.set_color(INK)


def _inline(svg: str, prefix: str) -> str:
    """The <svg> element alone, with ids of its own, as wide as the page, in the page's colour."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, count=1, flags=re.DOTALL)
    svg = re.sub(r'\bid="', f'id="{prefix}', svg)
    svg = re.sub(r'href="#', f'href="#{prefix}', svg)
    svg = svg.replace("url(#", f"url(#{prefix}").replace(INK, "currentColor")
    head, rest = svg.split(">", 1)
    head = re.sub(r' (width|height)="[^"]*"', "", head)
    return f'{head} role="img">{rest}'
