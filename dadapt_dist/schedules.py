"""Learning-rate schedules with peak multiplier 1, for optimizers that find the step size themselves.

Each function returns a torch `LambdaLR`; the optimizer keeps its base lr of 1.0 and the schedule shapes d·lr. Call
`scheduler.step()` once after every `optimizer.step()`. Step numbers k run from 0 to total_steps - 1. No step of the run
has a multiplier of exactly 0: warm-up starts at 1/w (w warm-up steps), and the decay reaches its end only at
k = total_steps, after the last step. Past total_steps the multiplier stays there.
"""

import math
from functools import partial

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

__all__ = ["cosine_with_warmup", "linear_decay_with_warmup", "warmup_stable_decay"]


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
