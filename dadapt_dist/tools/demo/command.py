"""Run `dadapt-dist demo`: check the settings, launch the training script, show the result beside AdamW's."""

import json
from importlib.resources import files
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from ...files.bounded_read import read_json_object
from .settings import Settings
from .text import BATCH

__all__ = ["run_demo"]


def run_demo(given: dict[str, Any], console: Console) -> int:
    """Run the demo with the options given, and return its exit code. Raises ValueError for options that cannot work."""
    settings = Settings.of(given)
    text = _check_text(settings)
    from .elastic import launch

    console.print(
        f"{settings.method} on {settings.nproc} process(es), sharding {settings.sharding}: {settings.steps} steps of "
        f"{BATCH} x {text.context} bytes from {settings.text or 'the Python standard library'}"
    )
    code = launch("dadapt_dist.tools.demo.train", settings.arguments(), settings.nproc)
    if code:
        hint = " --out " + settings.out if settings.out != Settings.out else ""
        console.print(f"ended early (exit code {code}); continue with: dadapt-dist demo --resume{hint}")
        return code
    _show(settings, text.fingerprint, console)
    return 0


def _check_text(settings: Settings) -> Any:
    from .model import SIZES
    from .text import load_text

    return load_text(settings.text, SIZES[settings.size].context)


def _show(settings: Settings, fingerprint: str, console: Console) -> None:
    result = read_json_object(settings.folder / "result.json")
    table = Table("optimizer", "held-out loss, bits/byte", title=f"after {settings.steps} steps")
    d = f", found d = {result['d']:.3g}" if "d" in result else ""
    table.add_row(f"{settings.method} (lr {settings.lr or 'default'}{d})", f"{result['held_out_bits_per_byte']:.3f}")
    notes = _add_adamw(table, settings, fingerprint)
    console.print(table)
    for note in notes:
        console.print(note)
    try:
        from dadapt_dist.monitor.plot import plot_run

        title = f"{settings.method}, {settings.sharding} on {settings.nproc}"
        picture = plot_run(settings.folder / "metrics.jsonl", settings.folder / "loss_and_d.png", title=title)
        console.print(f"plot: {picture}")
    except ImportError as error:
        console.print(f"no plot: {error}")
    console.print(f"metrics: {settings.folder / 'metrics.jsonl'}   checkpoints: {settings.folder / 'checkpoints'}")


def _add_adamw(table: Table, settings: Settings, fingerprint: str) -> list[str]:
    """A row with the committed table's best AdamW, if it is about the same task; returns notes on what differs."""
    measured, task = load_grid(), (settings.steps, settings.size, settings.text)
    if measured is None or (measured["steps"], measured["size"], None) != task:
        return ["no AdamW beside it: the measured table is for the default steps and text"]
    curve = curve_of(measured)
    best, least = min(curve, key=lambda pair: pair[1])
    for lr, bits in curve:
        mark = ", the best" if lr == best else ""
        table.add_row(f"adamw, lr {lr:g}{mark}", f"{bits:.3f}")
    seeds = len(measured["seeds"])
    notes = [f"AdamW's figures are stored ones, means of {seeds} seeds: dadapt-dist demo-grid measures them anew"]
    ours = [float(row["held_out_bits_per_byte"]) for row in measured["grid"] if row["method"] == "prodigy"]
    if ours:
        mean = sum(ours) / len(ours)
        notes.append(
            f"Prodigy's mean over the same {len(ours)} seeds: {mean:.3f}, {mean - least:+.3f} beside the best AdamW"
        )
    if measured["text_sha256"] != fingerprint:
        notes.append(f"their text was the standard library of Python {measured['python']}; yours differs")
    return notes


def curve_of(measured: dict[str, Any]) -> list[tuple[float, float]]:
    """(learning rate, mean held-out loss over the seeds) of AdamW in a table of `demo-grid`, in the order of the rates."""
    of_lr: dict[float, list[float]] = {}
    for row in measured["grid"]:
        if row["method"] == "adamw":
            of_lr.setdefault(float(row["lr"]), []).append(float(row["held_out_bits_per_byte"]))
    return sorted((lr, sum(found) / len(found)) for lr, found in of_lr.items())


def load_grid(path: Path | None = None) -> dict[str, Any] | None:
    """The table of AdamW's losses, the committed one unless a path is given; None without one."""
    source = path or files(__package__) / "adamw_grid.json"
    return dict(json.loads(source.read_text())) if source.is_file() else None
