"""One run: a task trained with a variant from a seed."""

import inspect
import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from .catalogue import task_of
from .task import Problem
from .variants import Variant

CURVE_POINTS = 20
RECALIBRATED = 50  # batches


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
    """Train and judge; returns the record of the run. torch's generator is left as it was.

    folder: where bases for fine-tuning are. The record: task, variant, how (the variant's options), seed, steps; loss, at
    most the task's largest, None where that has no bound and the run diverged; diverged; curve, CURVE_POINTS means of the
    training loss; d, if the optimizer has one; seconds.

    An optimizer whose step() takes the loss gets it; one with train() and eval() trains in the one and is judged in the other.
    """
    task, start = task_of(run.task), time.perf_counter()
    task.prepare(folder)
    with torch.random.fork_rng(devices=[]):
        problem = task.begin(run.seed)
        optimizer, scheduler = run.variant.make([p for p in problem.model.parameters() if p.requires_grad], run.steps)
        losses = _trained(problem, optimizer, scheduler, run.steps)
        diverged = len(losses) < run.steps
        if not diverged:
            _to_evaluation(problem, optimizer, run.steps)
        problem.model.eval()
        with torch.no_grad():
            judged = math.nan if diverged else problem.evaluate(problem.model)
    diverged |= not math.isfinite(judged)
    loss = task.largest if diverged else min(judged, task.largest)
    return {
        "task": run.task,
        "variant": run.variant.name,
        "how": run.variant.described(),
        "seed": run.seed,
        "steps": run.steps,
        "loss": loss if math.isfinite(loss) else None,
        "diverged": diverged,
        "curve": _curve(losses),
        "d": _estimate(optimizer),
        "seconds": round(time.perf_counter() - start, 3),
    }


def _trained(problem: Problem, optimizer: Optimizer, scheduler: LRScheduler | None, steps: int) -> list[float]:
    """Train; the losses of the steps, the last of which is not finite where training ended there."""
    step_of: Any = optimizer.step
    takes_loss = "loss" in inspect.signature(step_of).parameters
    losses: list[float] = []
    problem.model.train()
    _call(optimizer, "train")
    for step in range(1, steps + 1):
        optimizer.zero_grad()
        loss = problem.loss(problem.model, problem.batch(step))
        losses.append(float(loss.detach()))
        if not math.isfinite(losses[-1]):
            break
        loss.backward()
        step_of(loss=loss.detach()) if takes_loss else step_of()
        if scheduler is not None:
            scheduler.step()
    return losses


def _to_evaluation(problem: Problem, optimizer: Optimizer, steps: int) -> None:
    """Let the weights be those to be judged, where the optimizer trains others (Schedule-Free).

    The running statistics of batch normalisation are those of the weights that trained: they are then measured anew.
    """
    params = [p for p in problem.model.parameters() if p.requires_grad]
    before = [p.detach().clone() for p in params]
    _call(optimizer, "eval")
    changed = any(not torch.equal(p, old) for p, old in zip(params, before, strict=True))
    if changed and any(isinstance(module, _BatchNorm) for module in problem.model.modules()):
        with torch.no_grad():
            for step in range(steps + 1, steps + 1 + RECALIBRATED):
                problem.loss(problem.model, problem.batch(step))


def _call(optimizer: Optimizer, mode: str) -> None:
    """Call optimizer.train() or optimizer.eval(), where it has them."""
    change = getattr(optimizer, mode, None)
    if callable(change):
        change()


def _curve(losses: list[float]) -> list[float]:
    finite = [loss for loss in losses if math.isfinite(loss)]
    size = max(1, math.ceil(len(finite) / CURVE_POINTS))
    parts = [finite[i : i + size] for i in range(0, len(finite), size)]
    return [float(f"{sum(part) / len(part):.4g}") for part in parts]


def _estimate(optimizer: Optimizer) -> float | None:
    """d of the first group, where it has one and no more."""
    d = optimizer.param_groups[0].get("d")
    return None if d is None or (isinstance(d, torch.Tensor) and d.numel() != 1) else float(d)
