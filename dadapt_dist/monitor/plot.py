"""Plot loss and d from a JSONL log, and a schedule that was made of one."""

import os
from pathlib import Path
from typing import Any

from .jsonl import read_jsonl
from .refine import Refined

__all__ = ["plot_run", "plot_schedule"]
LABELS = {"effective_lr": "d·lr", "adamw_lr": "equivalent AdamW learning rate"}


def plot_run(log: str | os.PathLike[str], picture: str | os.PathLike[str], *, title: str = "") -> Path:
    """Plot "loss" and, on a logarithmic axis, every "d..." of a JSONL log over "step"; return the picture's path.

    A log without d, such as AdamW's, gets the loss alone.

    Args:
        log: A file written by `JsonlWriter`.
        picture: Where to write; the suffix chooses the format (.png, .pdf, .svg).
        title: Title above the loss.

    Raises:
        ImportError: matplotlib is not installed.
        FileNotFoundError: There is no such log.
        ValueError: The log has no record with a "step".
    """
    figure_class = _figure_class()
    records = [r for r in read_jsonl(log) if "step" in r]
    if not records:
        raise ValueError(f"{log} holds no record with a step: give the metrics.jsonl of a run that has taken one")
    estimates = sorted({key for r in records for key in r if key == "d" or key.startswith("d/")})
    figure = figure_class(figsize=(8, 6 if estimates else 3.5), layout="constrained")
    axes = figure.subplots(2 if estimates else 1, 1, sharex=True, squeeze=False)[:, 0]
    _draw(axes[0], records, ["loss"])
    axes[0].set(ylabel="loss", title=title)
    if estimates:
        _draw(axes[1], records, estimates + [key for key in LABELS if key in records[0]])
        axes[1].set(ylabel="d", yscale="log")
        axes[1].legend()
    axes[-1].set_xlabel("step")
    figure.savefig(picture, dpi=120)
    return Path(picture)


def plot_schedule(refined: Refined, picture: str | os.PathLike[str], *, norm: str) -> Path:
    """Plot a schedule beside linear decay, and the smoothed gradient norms that it comes from; return the picture's path.

    Args:
        refined: The schedule.
        picture: Where to write; the suffix chooses the format (.png, .pdf, .svg).
        norm: What the axis of the norms is called.

    Raises:
        ImportError: matplotlib is not installed.
        ValueError: The suffix is of no format.
    """
    figure = _figure_class()(figsize=(8, 6), layout="constrained")
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


def _draw(axis: Any, records: list[dict[str, Any]], keys: list[str]) -> None:
    for key in keys:
        points = [(r["step"], r[key]) for r in records if r.get(key) is not None]
        axis.plot([x for x, _ in points], [y for _, y in points], label=LABELS.get(key, key), linewidth=1.2)
    axis.grid(alpha=0.3)


def _figure_class() -> Any:
    """Import matplotlib's Figure; without pyplot there is no window and no global state."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: F401  (fails early where Agg cannot load)
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("plots need matplotlib: pip install dadapt-dist[demo]") from error
    return Figure
