"""Expected results of a DeepSpeed configuration: the independent float64 oracle on the same global batch.

With low-precision weights the oracle takes its gradients from a low-precision copy of its weights, rank by rank and
micro-step by micro-step, and averages them in the order and the dtype of DeepSpeed's wrapper.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from .deepspeed_runs import BATCH, DECAYS, NAMES, Case, Odd, batch, indices, loss_of
from .layout_runs import of_oracle
from .oracles import ORACLES
from .oracles.base import Oracle

STAGE_0_SCALE = 2.0**8  # initial_scale_power of the configuration


@dataclass
class Expected:
    """d and k after each step that was not skipped, and the weights at the end, of one process."""

    d: list[float]
    k: list[int]
    params: list[Tensor]


def reference(case: Case, ranks: int = 2, skipped: Sequence[int] = ()) -> Expected:
    """One process on the global batches of the case, but for those that DeepSpeed skips."""
    what = case.method, case.groups, case.precision, case.clip, case.lrs, case.steps, tuple(skipped)
    rounding = (case.in_pieces,) if case.precision == "fp32" else (case.in_pieces, case.stage, case.accumulation, ranks)
    return _reference(_Key((*what, *case.optimizer_options.items(), *rounding), case, ranks, tuple(skipped)))


@dataclass(frozen=True)
class _Key:
    """A case, hashed by what its reference depends on."""

    parts: tuple[Any, ...]
    case: Case = field(compare=False)
    ranks: int = field(compare=False)
    skipped: tuple[int, ...] = field(compare=False)


@cache
def _reference(key: _Key) -> Expected:
    case, oracle = key.case, make_oracle(key.case)
    expected = Expected([], [], oracle.params)
    for step in (step for step in range(case.steps) if step not in key.skipped):
        if case.lrs:
            oracle.set_lr(case.lrs[step])
        if case.precision == "fp32":
            oracle.step(clipped(exact_gradients(oracle, step), case.clip))
        else:
            grads = averaged_gradients(oracle, case, key.ranks, step)
            if (case.stage, case.precision) == (0, "fp16"):
                # DeepSpeed 0.19.8 does not scale this loss and yet divides the gradients by the loss scale, which each
                # skipped step halves.
                scale = STAGE_0_SCALE / 2 ** sum(one < step for one in key.skipped)
                grads = [g.float() / scale for g in grads]
            oracle.step(clipped(grads, case.clip))
            for p in oracle.params:  # DeepSpeed's are float32: the next rounding to low precision has to be theirs
                p.copy_(p.float())
        expected.d.append(oracle.d)
        expected.k.append(next(iter(oracle.k.values())))
    return expected


def make_oracle(case: Case) -> Oracle:
    groups = [
        {"indices": which, "weight_decay": decay}
        for which, decay in zip(indices(case.groups), DECAYS[case.groups], strict=True)
    ]
    model = Odd().to(case.dtype)  # DeepSpeed rounds the weights before it copies them to float32
    options = of_oracle(case.optimizer_options)
    return ORACLES[case.method](list(model.parameters()), groups, lagged=case.in_pieces, **options)


def clipped(grads: list[Tensor], clip: float) -> list[Tensor | None]:
    """The gradients scaled to a global norm of at most `clip` as torch does it; 0: as they are."""
    holders = [nn.Parameter(torch.zeros_like(g, dtype=torch.float64)) for g in grads]
    for holder, g in zip(holders, grads, strict=True):
        holder.grad = g.double()
    if clip:
        nn.utils.clip_grad_norm_(holders, clip)
    return [holder.grad for holder in holders]


def exact_gradients(oracle: Oracle, step: int) -> list[Tensor]:
    """Float64 gradients of the loss on the global batch."""
    x, y = batch(step)
    model = Odd().double()
    _load(model, oracle.params)
    loss_of(model(x.double()), y.double()).backward()
    return [p.grad for p in model.parameters() if p.grad is not None]


def averaged_gradients(oracle: Oracle, case: Case, ranks: int, step: int) -> list[Tensor]:
    """The gradients that DeepSpeed computes rank by rank in low precision, and averages.

    Stages 0 and 1 add up a rank's micro-steps and average over ranks at the end, 2 and 3 average each micro-step. Both
    happen in the dtype of the weights; with data_types.grad_accum_dtype float32 the micro-steps are added up in float32
    and still travel in bfloat16, and under autocast ZeRO sends the gradients of linear layers in bfloat16
    (with one micro-step; how it adds up several is not followed here).
    """
    x, y = batch(step)
    n = BATCH // ranks // case.accumulation
    parts = [slice(i * n, (i + 1) * n) for i in range(ranks * case.accumulation)]
    pieces = [rounded_gradients(oracle, case, x[at], y[at]) for at in parts]
    grid = [pieces[i * ranks : (i + 1) * ranks] for i in range(case.accumulation)]  # [micro-step][rank][tensor]
    linear = [case.precision == "autocast" and case.stage > 0 and "norm" not in name for name in NAMES]
    if case.stage >= 2:
        return added([average(row, linear) for row in grid])
    by_rank = [list(column) for column in zip(*grid, strict=True)]
    if case.precision == "bf16+fp32":
        return average(
            [[g.bfloat16() for g in added([[g.float() for g in t] for t in row])] for row in by_rank], linear
        )
    return average([added(row) for row in by_rank], linear)


def rounded_gradients(oracle: Oracle, case: Case, x: Tensor, y: Tensor) -> list[Tensor]:
    """Gradients of one micro-step's share of the loss, at the oracle's weights rounded to the model's dtype."""
    model = Odd().to(case.dtype)
    _load(model, [p.float() for p in oracle.params])
    with torch.autocast("cpu", torch.bfloat16, enabled=case.precision == "autocast"):
        out = model(x.to(case.dtype))
    (loss_of(out, y) / case.accumulation).backward()
    return [p.grad for p in model.parameters() if p.grad is not None]


def average(lists: list[list[Tensor]], in_bfloat16: list[bool]) -> list[Tensor]:
    """Tensor by tensor, the mean over ranks."""
    sent = [[g.bfloat16() if low else g for g, low in zip(tensors, in_bfloat16, strict=True)] for tensors in lists]
    return [g / len(lists) for g in added(sent)]


def added(lists: list[list[Tensor]]) -> list[Tensor]:
    """Tensor by tensor, the sum of several lists, in order and in their dtype."""
    total = lists[0]
    for other in lists[1:]:
        total = [a + b for a, b in zip(total, other, strict=True)]
    return total


def _load(model: nn.Module, values: Sequence[Tensor]) -> None:
    with torch.no_grad():
        for p, value in zip(model.parameters(), values, strict=True):
            p.copy_(value)


def deviation_of_d(ds: Sequence[float], expected: Sequence[float]) -> float:
    """max |d/d₁ - 1| over steps; 0 where there is no d."""
    pairs = zip(ds, expected, strict=True)
    return max(0.0 if math.isnan(d) and math.isnan(d1) else abs(d / d1 - 1) for d, d1 in pairs)


def deviation(ours: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
    """max ‖x - x₁‖/‖x₁‖ over tensors."""
    return max(float((x.double() - x1).norm() / x1.norm()) for x, x1 in zip(ours, expected, strict=True))
