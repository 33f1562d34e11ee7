"""AdamW's loss over its learning rate, as it was measured earlier and is stored, and a run beside it."""

import json
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

from rich import box
from rich.table import Table

from .settings import Settings

WIDTH = 40  # letters of the scale on which losses are marked
AT_ADAMW, AT_OURS = "●", "│"


class Stored(NamedTuple):
    """The stored table, where it is about a run's task. curve: AdamW's rates and mean losses; prodigy: its mean, or None."""

    table: dict[str, Any]
    curve: list[tuple[float, float]]
    prodigy: float | None


def load_grid(path: Path | None = None) -> dict[str, Any] | None:
    """The table of AdamW's losses, the committed one unless a path is given; None without one."""
    source = path or files(__package__) / "adamw_grid.json"
    return dict(json.loads(source.read_text())) if source.is_file() else None


def curve_of(measured: dict[str, Any]) -> list[tuple[float, float]]:
    """(learning rate, mean held-out loss over the seeds) of AdamW in a table of `demo-grid`, in the order of the rates."""
    of_lr: dict[float, list[float]] = {}
    for row in measured["grid"]:
        if row["method"] == "adamw":
            of_lr.setdefault(float(row["lr"]), []).append(float(row["held_out_bits_per_byte"]))
    return sorted((lr, sum(found) / len(found)) for lr, found in of_lr.items())


def stored_for(settings: Settings) -> Stored | None:
    """The stored table if it is about the task of this run, else None."""
    table = load_grid()
    if table is None or (table["steps"], table["size"], None) != (settings.steps, settings.size, settings.text):
        return None
    ours = [float(row["held_out_bits_per_byte"]) for row in table["grid"] if row["method"] == "prodigy"]
    return Stored(table, curve_of(table), sum(ours) / len(ours) if ours else None)


def sentence(stored: Stored, settings: Settings, bits: float) -> str:
    """Which of the figures are stored, with what and how they were measured, and which was measured just now."""
    table, seeds = stored.table, len(stored.table["seeds"])
    where = f"on one process with Python {table['python']} and torch {table['torch']}"
    mean = "" if stored.prodigy is None else f", and so is Prodigy's mean of {stored.prodigy:.3f} over the same seeds"
    return (
        f"AdamW's figures are stored: each is the mean of {seeds} seeds, measured earlier {where}{mean}; "
        f"only the {bits:.3f} of {settings.method} (seed {settings.seed}) was measured just now."
    )


def notes(stored: Stored, fingerprint: str) -> list[str]:
    """What else a reader of the table should know."""
    lines = ["Measure the stored figures anew with: dadapt-dist demo-grid"]
    if stored.table["text_sha256"] != fingerprint:
        version = stored.table["python"]
        lines.append(
            f"The stored figures are for the standard library of Python {version}; the text of this run differs."
        )
    return lines


def table_of(stored: Stored | None, settings: Settings, bits: float, d: float | None) -> Table:
    """A run's loss; with the stored table, AdamW's U-curve lies on its side, and the run is the line through it."""
    name = settings.method if settings.method != "adamw" else f"adamw, lr {settings.lr or 1e-3:g}"
    title = f"Held-out loss after {settings.steps} steps, in bits per byte: lower is better"
    table = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left")
    table.add_column("optimizer", no_wrap=True)
    table.add_column("bits/byte", justify="right")
    found = "" if d is None else f"found d = {d:.3g}"
    if stored is None:
        table.add_column("")
        table.add_row(f"{name}, this run", f"{bits:.3f}", found)
        return table
    losses = [loss for _, loss in stored.curve]
    low, high = min(*losses, bits), max(*losses, bits)
    table.add_column(f"{low:.2f}{f'{high:.2f}':>{WIDTH - 4}}", no_wrap=True)
    line = _place(bits, low, high)
    for lr, loss in stored.curve:
        best = "  best" if loss == min(losses) else ""
        table.add_row(f"adamw, lr {lr:g}", f"{loss:.3f}", _marks(_place(loss, low, high), line) + best)
    table.add_row(f"{name}, this run", f"{bits:.3f}", " " * line + f"{AT_OURS} {found}", style="bold")
    return table


def _place(loss: float, low: float, high: float) -> int:
    return round((loss - low) / (high - low or 1.0) * (WIDTH - 1))


def _marks(adamw: int, ours: int) -> str:
    marks = [" "] * (max(adamw, ours) + 1)
    marks[ours] = AT_OURS
    marks[adamw] = AT_ADAMW
    return "".join(marks)
