"""One run: a task trained with a variant from a seed."""

import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.optim import Optimizer

from .catalogue import TASKS
from .variants import Variant

# A run whose loss is not finite, or larger, counts with this loss.
LARGEST_LOSS = 99.0
CURVE_POINTS = 20


@dataclass(frozen=True)
class Run:
    """What a run depends on; key: how it is found among results."""

    task: str
    variant: Variant
    seed: int
    steps: int

    @property
    def key(self) -> tuple[str, str, int]:
        return self.task, self.variant.name, self.seed


def train(run: Run, folder: Path) -> dict[str, Any]:
    """Train and judge; returns the record of the run.

    folder: where bases for fine-tuning are. The record: task, variant, how (the variant's options), seed, steps; loss, at
    most LARGEST_LOSS; diverged; curve, CURVE_POINTS means of the training loss; d, if the optimizer has one; seconds.
    """
    task, start = TASKS[run.task], time.perf_counter()
    task.prepare(folder)
    model = task.model(run.seed)
    params = [p for p in model.parameters() if p.requires_grad]
    optimizer, scheduler = run.variant.make(params, run.steps)
    losses: list[float] = []
    model.train()
    for step in range(1, run.steps + 1):
        optimizer.zero_grad()
        loss = task.loss(model, task.batch(run.seed, step))
        losses.append(float(loss.detach()))
        if not math.isfinite(losses[-1]):
            break
        loss.backward()
        optimizer.step()
        if scheduler is not None:
            scheduler.step()
    model.eval()
    with torch.no_grad():
        judged = task.evaluate(model)
    diverged = len(losses) < run.steps or not math.isfinite(judged)
    return {
        "task": run.task,
        "variant": run.variant.name,
        "how": run.variant.described(),
        "seed": run.seed,
        "steps": run.steps,
        "loss": LARGEST_LOSS if diverged else min(judged, LARGEST_LOSS),
        "diverged": diverged,
        "curve": _curve(losses),
        "d": _estimate(optimizer),
        "seconds": round(time.perf_counter() - start, 3),
    }


def _curve(losses: list[float]) -> list[float]:
    finite = [loss for loss in losses if math.isfinite(loss)]
    size = max(1, math.ceil(len(finite) / CURVE_POINTS))
    parts = [finite[i : i + size] for i in range(0, len(finite), size)]
    return [float(f"{sum(part) / len(part):.4g}") for part in parts]


def _estimate(optimizer: Optimizer) -> float | None:
    d = optimizer.param_groups[0].get("d")
    return None if d is None else float(d)
