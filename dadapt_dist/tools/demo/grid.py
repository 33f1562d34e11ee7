"""Measure AdamW over a grid of learning rates: the table that the demo shows."""

import json
import logging
import platform
import tempfile
from pathlib import Path
from typing import Any

import torch

from ...files.bounded_read import read_json_object
from .elastic import launch
from .model import SIZES
from .settings import Settings
from .text import BATCH, load_text

__all__ = ["measure_grid"]

logger = logging.getLogger(__name__)


def measure_grid(lrs: list[float], table: Path, options: dict[str, Any]) -> int:
    """Run AdamW at each learning rate, writing the table after each; returns the exit code of the first that failed.

    lrs: positive learning rates. options: steps, seed, size as for the demo. Raises ValueError for what cannot work.
    """
    with tempfile.TemporaryDirectory() as folder:
        options = {**options, "method": "adamw"}
        runs = [Settings.of({**options, "lr": lr, "out": f"{folder}/{i}"}) for i, lr in enumerate(lrs)]
        head = _head(runs[0], lrs)
        rows: list[dict[str, float]] = []
        for run in runs:
            code = launch("dadapt_dist.tools.demo.train", run.arguments(), run.nproc)
            if code:
                return code
            result = read_json_object(run.folder / "result.json")
            rows.append({"lr": run.lr or 0.0, "held_out_bits_per_byte": round(result["held_out_bits_per_byte"], 4)})
            table.write_text(json.dumps({**head, "grid": rows}, indent=2) + "\n")
            logger.warning("lr %g: %.4f bits/byte", rows[-1]["lr"], rows[-1]["held_out_bits_per_byte"])
    return 0


def _head(run: Settings, lrs: list[float]) -> dict[str, Any]:
    """What the figures depend on."""
    text = load_text(run.text, SIZES[run.size].context)
    grid = ",".join(f"{lr:g}" for lr in lrs)
    return {
        "command": f"dadapt-dist demo-grid --lrs {grid} --steps {run.steps} --seed {run.seed}",
        "method": "AdamW, betas 0.9 and 0.999, weight decay 0, linear decay with 5% warm-up",
        "sharding": run.sharding,
        "nproc": run.nproc,
        "size": run.size,
        "steps": run.steps,
        "seed": run.seed,
        "batch": BATCH,
        "context": text.context,
        "text_bytes": len(text.train) + len(text.held_out),
        "text_sha256": text.fingerprint,
        "python": platform.python_version(),
        "torch": torch.__version__,
    }
