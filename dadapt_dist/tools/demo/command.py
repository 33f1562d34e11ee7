"""Run `dadapt-dist demo`: check the settings, launch the training script, show the result beside AdamW's."""

import math
import os
from typing import Any

from rich.console import Console

from ...files.bounded_read import read_json_object
from . import curve
from .settings import Settings
from .text import BATCH
from .wording import placed

__all__ = ["run_demo"]


def run_demo(given: dict[str, Any], console: Console) -> int:
    """Run the demo with the options given, and return its exit code. Raises ValueError for options that cannot work."""
    settings = Settings.of(given)
    text = _check_text(settings)
    settings.folder.mkdir(parents=True, exist_ok=True)  # here, where an error is one line
    if not os.access(settings.folder, os.W_OK):
        raise ValueError(f"--out {settings.out} may not be written: name another folder")
    from .elastic import launch

    console.print(
        f"{settings.method}, {placed(settings.sharding, settings.nproc)}: {settings.steps} steps of "
        f"{BATCH} x {text.context} bytes from {settings.text or 'the Python standard library'}; starting"
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
    bits, d = float(result["held_out_bits_per_byte"]), result.get("d")
    stored = curve.stored_for(settings)
    console.print(curve.table_of(stored, settings, bits, d if d is not None and math.isfinite(d) else None))
    if stored is None:
        console.print("AdamW's stored losses are for the default steps, size and text: none stand beside this run.")
    else:
        for line in (curve.sentence(stored, settings, bits), *curve.notes(stored, fingerprint)):
            console.print(line)
    try:
        from .picture import draw_run

        console.print(f"plot: {draw_run(settings, bits, stored)}")
    except ImportError as error:
        console.print(f"no plot: {error}")
    console.print(f"metrics: {settings.folder / 'metrics.jsonl'}   checkpoints: {settings.folder / 'checkpoints'}")
