"""Measure AdamW over a grid of learning rates and several seeds, and Prodigy beside it: the table that the demo shows."""

import json
import logging
import os
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

Row = dict[str, Any]
logger = logging.getLogger(__name__)


def measure_grid(lrs: list[float], seeds: list[int], table: Path, options: dict[str, Any]) -> int:
    """Run AdamW at each learning rate with each seed, and then Prodigy; returns the exit code of the first that failed.

    The table is written after each run. What stands in it already, about the same task, is not run again.

    lrs: positive learning rates. options: steps and size as for the demo. Raises ValueError for what cannot work.
    """
    if not os.access(table.absolute().parent, os.W_OK):
        raise ValueError(f"--out {table}: its folder is not there, or may not be written: name another file")
    with tempfile.TemporaryDirectory() as folder:
        methods: list[dict[str, Any]] = [*({"method": "adamw", "lr": lr} for lr in lrs), {"method": "prodigy"}]
        given = [{**options, **method, "seed": seed, "sharding": "none"} for seed in seeds for method in methods]
        runs = [Settings.of({**one, "out": f"{folder}/{place}"}) for place, one in enumerate(given)]
        head = _head(runs[0], lrs, seeds)
        rows = _known(table, head)
        for run in runs:
            key: Row = {"method": run.method, "lr": run.lr, "seed": run.seed}
            if any(row.items() >= key.items() for row in rows):
                continue
            code = launch("dadapt_dist.tools.demo.train", run.arguments(), run.nproc)
            if code:
                return code
            bits = round(read_json_object(run.folder / "result.json")["held_out_bits_per_byte"], 4)
            rows.append({**key, "held_out_bits_per_byte": bits})
            part = table.with_name(f"{table.name}.part")
            part.write_text(json.dumps({**head, "grid": rows}, indent=2) + "\n")
            os.replace(part, table)
            logger.warning("%s lr %g, seed %d: %.4f bits/byte", run.method, run.lr or 1.0, run.seed, bits)
    return 0


def _known(table: Path, head: dict[str, Any]) -> list[Row]:
    """The rows of a table that was begun. Raises ValueError for one about another task."""
    if not table.exists():
        return []
    found = read_json_object(table)
    differ = [name for name in head if name not in ("command", "seeds") and found.get(name) != head[name]]
    if differ:
        raise ValueError(f"{table} is about another task ({', '.join(differ)} differ): name another file with --out")
    return list(found["grid"])


def _head(run: Settings, lrs: list[float], seeds: list[int]) -> dict[str, Any]:
    """What the figures depend on."""
    text = load_text(run.text, SIZES[run.size].context)
    grid, all_seeds = ",".join(f"{lr:g}" for lr in lrs), ",".join(map(str, seeds))
    return {
        "command": f"dadapt-dist demo-grid --lrs {grid} --seeds {all_seeds} --steps {run.steps}",
        "method": "AdamW, betas 0.9 and 0.999, weight decay 0, linear decay with 5% warm-up; Prodigy with recipe='auto'",
        "sharding": run.sharding,
        "nproc": run.nproc,
        "size": run.size,
        "steps": run.steps,
        "seeds": seeds,
        "batch": BATCH,
        "context": text.context,
        "text_bytes": len(text.train) + len(text.held_out),
        "text_sha256": text.fingerprint,
        "python": platform.python_version(),
        "torch": torch.__version__,
    }
