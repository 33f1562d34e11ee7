"""Learning-rate schedules with peak multiplier 1, for optimizers that find the step size themselves.

Each function returns a torch `LambdaLR`; the optimizer keeps its base lr of 1.0 and the schedule shapes d·lr. Call
`scheduler.step()` once after every `optimizer.step()`. Step numbers k run from 0 to total_steps - 1. No step of the run
has a multiplier of exactly 0: warm-up starts at 1/w (w warm-up steps), and the decay reaches its end only at
k = total_steps, after the last step. Past total_steps the multiplier stays there.
"""

import math
import os
from bisect import bisect_left
from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from .files.bounded_read import read_json_object

__all__ = ["cosine_with_warmup", "from_file", "linear_decay_with_warmup", "warmup_stable_decay"]


def linear_decay_with_warmup(optimizer: Optimizer, total_steps: int, warmup: float = 0.05) -> LambdaLR:
    """Linear warm-up to 1, then linear decay to 0: the recommended schedule.

    m(k) = (k+1)/w for k < w, else (total_steps - k)/(total_steps - w), with w = ceil(warmup·total_steps).

    Args:
        optimizer: The optimizer whose `lr` is multiplied.
        total_steps: Optimizer steps of the whole run, >= 1.
        warmup: Fraction of the steps spent rising, in [0, 1); 0 starts at 1. With a warm-up, give Prodigy
            `recipe="auto"` or `safeguard_warmup=True`.

    Raises:
        ValueError: `total_steps` or `warmup` is out of range.

    Example:
        >>> import torch, dadapt_dist
        >>> optimizer = dadapt_dist.Prodigy(torch.nn.Linear(2, 1).parameters())
        >>> scheduler = linear_decay_with_warmup(optimizer, total_steps=100)
        >>> scheduler.get_last_lr()
        [0.2]

    Source: A. Defazio et al., When, Why and How Much? Adaptive Learning Rate Scheduling by Refinement, arXiv 2310.07831.
    """
    warm, total = _warm(total_steps, warmup), _total(total_steps)
    return LambdaLR(optimizer, partial(_stable, total=total, warm=warm, cool=total - warm))


def cosine_with_warmup(optimizer: Optimizer, total_steps: int, warmup: float = 0.05, final: float = 0.0) -> LambdaLR:
    """Linear warm-up to 1, then half a cosine down to `final`.

    m(k) = (k+1)/w for k < w, else final + (1 - final)·(1 + cos(π·(k - w)/(total_steps - w)))/2.

    Args:
        optimizer: The optimizer whose `lr` is multiplied.
        total_steps: Optimizer steps of the whole run, >= 1.
        warmup: Fraction of the steps spent rising, in [0, 1).
        final: Multiplier at the end, in [0, 1].

    Raises:
        ValueError: An argument is out of range.

    Example:
        >>> import torch, dadapt_dist
        >>> optimizer = dadapt_dist.Prodigy(torch.nn.Linear(2, 1).parameters())
        >>> cosine_with_warmup(optimizer, total_steps=100, warmup=0.1).get_last_lr()
        [0.1]

    Source: I. Loshchilov and F. Hutter, SGDR: Stochastic Gradient Descent with Warm Restarts, arXiv 1608.03983, section 3.
    """
    low = _fraction("final", final, closed=True)
    warm = _warm(total_steps, warmup)
    return LambdaLR(optimizer, partial(_cosine, total=_total(total_steps), warm=warm, final=low))


def warmup_stable_decay(optimizer: Optimizer, total_steps: int, warmup: float = 0.05, decay: float = 0.2) -> LambdaLR:
    """Linear warm-up to 1, a plateau at 1, and linear decay to 0 over the last part.

    m(k) = (k+1)/w for k < w, 1 for w <= k < total_steps - c, else (total_steps - k)/c, c = ceil(decay·total_steps).

    Args:
        optimizer: The optimizer whose `lr` is multiplied.
        total_steps: Optimizer steps of the whole run, >= 1.
        warmup: Fraction of the steps spent rising, in [0, 1).
        decay: Fraction of the steps spent falling, in [0, 1]; at least one step. `warmup` and `decay` together must not
            exceed 1.

    Raises:
        ValueError: An argument is out of range.

    Example:
        >>> import torch, dadapt_dist
        >>> optimizer = dadapt_dist.Prodigy(torch.nn.Linear(2, 1).parameters())
        >>> warmup_stable_decay(optimizer, total_steps=100, warmup=0.25, decay=0.5).get_last_lr()
        [0.04]

    Source: S. Hu et al., MiniCPM: Unveiling the Potential of Small Language Models, arXiv 2404.06395, section 4.
    """
    warm, total = _warm(total_steps, warmup), _total(total_steps)
    cool = max(1, math.ceil(_fraction("decay", decay, closed=True) * total))
    if warm + cool > total:
        raise ValueError(
            f"warmup={warmup} and decay={decay} ask for {warm} + {cool} of total_steps={total}: "
            "their sum must not exceed 1; make one of them smaller"
        )
    return LambdaLR(optimizer, partial(_stable, total=total, warm=warm, cool=cool))


def from_file(optimizer: Optimizer, path: str | os.PathLike[str], total_steps: int) -> LambdaLR:
    """The schedule of a file, such as `dadapt-dist refine-schedule` makes of the gradient norms of an earlier run.

    m(k) is interpolated between the file's knots at the fraction k/total_steps of the run. A checkpoint does not hold the knots:
    a run that is resumed needs the file.

    Args:
        optimizer: The optimizer whose `lr` is multiplied.
        path: A JSON object with "total_steps", "fractions" (ascending from 0 to 1) and "multipliers" (in [0, 1], as many).
        total_steps: Optimizer steps of the whole run: those that the file was made for.

    Raises:
        OSError: The file cannot be read.
        ValueError: It is no schedule, or one for another number of steps.

    Example:
        >>> import torch, dadapt_dist
        >>> optimizer = dadapt_dist.Prodigy(torch.nn.Linear(2, 1).parameters())
        >>> scheduler = from_file(optimizer, "schedule.json", total_steps=1000)  # doctest: +SKIP

    Source: A. Defazio et al., When, Why and How Much? Adaptive Learning Rate Scheduling by Refinement, arXiv 2310.07831.
    """
    total, content = _total(total_steps), read_json_object(Path(path))
    at, values = _knots(path, content)
    if content["total_steps"] != total:
        raise ValueError(
            f"{path} is a schedule for {content['total_steps']} steps, and total_steps={total}: give the run that length, or "
            f"make the schedule anew with `dadapt-dist refine-schedule ... --steps {total}`"
        )
    return LambdaLR(optimizer, partial(_interpolated, total=total, at=at, values=values))


def _interpolated(k: int, *, total: int, at: Sequence[float], values: Sequence[float]) -> float:
    x = min(1.0, k / total)
    i = max(1, bisect_left(at, x))  # at[i - 1] < x <= at[i], but for x = 0
    share = (x - at[i - 1]) / (at[i] - at[i - 1])
    return (1 - share) * values[i - 1] + share * values[i]


def _knots(path: str | os.PathLike[str], content: dict[str, Any]) -> tuple[list[float], list[float]]:
    """Fractions and multipliers of a schedule file. Raises ValueError, naming the file, for what cannot be one."""
    wrong = next((what for what, right in _checks(content) if not right), None)
    if wrong is not None:
        raise ValueError(f"{path} is no schedule: {wrong}. `dadapt-dist refine-schedule` makes one of a run's metrics")
    return [float(x) for x in content["fractions"]], [float(m) for m in content["multipliers"]]


def _checks(content: dict[str, Any]) -> list[tuple[str, bool]]:
    at, values, total = (content.get(name) for name in ("fractions", "multipliers", "total_steps"))
    lists = [part if isinstance(part, list) and all(map(_is_number, part)) else [] for part in (at, values)]
    at, values = lists
    ascending = len(at) > 1 and at[0] == 0 and at[-1] == 1 and all(a < b for a, b in pairwise(at))
    return [
        ('"total_steps" must be an integer >= 1', type(total) is int and total >= 1),
        ('"fractions" must be numbers that ascend from 0 to 1', ascending),
        ('"multipliers" must be as many numbers', len(values) == len(at)),
        ('"multipliers" must be in [0, 1]', all(0 <= m <= 1 for m in values)),
    ]


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _cosine(k: int, *, total: int, warm: int, final: float) -> float:
    if k < warm:
        return (k + 1) / warm
    progress = min(1.0, (k - warm) / (total - warm))
    return final + (1 - final) * (1 + math.cos(math.pi * progress)) / 2


def _stable(k: int, *, total: int, warm: int, cool: int) -> float:
    return (k + 1) / warm if k < warm else min(1.0, max(0.0, (total - k) / cool))


def _total(total_steps: int) -> int:
    if total_steps < 1 or int(total_steps) != total_steps:
        raise ValueError(f"total_steps={total_steps!r} must be an integer >= 1: the optimizer steps of the whole run")
    return int(total_steps)


def _warm(total_steps: int, warmup: float) -> int:
    """Number of warm-up steps; at least one step is left for the rest."""
    return min(math.ceil(_fraction("warmup", warmup, closed=False) * _total(total_steps)), total_steps - 1)


def _fraction(name: str, value: float, *, closed: bool) -> float:
    if not 0 <= value <= 1 or (value == 1 and not closed):  # NaN fails the first test
        brackets = "[0, 1]" if closed else "[0, 1)"
        raise ValueError(f"{name}={value!r} must be a fraction of the run in {brackets}, for instance 0.05")
    return float(value)
