"""TRAC (Muppidi, Zhang & Yang, arXiv 2405.16642, Algorithm 1; released as trac-optimizer)."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ...options.fields import MethodOptions
from ..base import Buffers, Coefficients, Initial, Options, Scalars, Sums
from ..ops import dot, total
from .scaled_sum import BETTORS, DELTA, LEAST, LR_OF_UPDATE, S_EPS, S_INIT, S_MAX, ScaledSum, betas_of

FIRST_SUM = 1e-8  # so much in favour of the updates before anything is known
ERFI_OF_ROOT_HALF = 0.9534382692512609  # erfi(1/√2)
TERMS, FAR, FAR_TERMS = 160, 6.0, 30

EQUATIONS = """
before  h = Σ g·Δ;  for six β_i = 1 - 10^-i:  v_i = β_i²·v_i + h²;  σ_i = β_i·σ_i + h, from 1e-8
        S = Σ s_init·erfi(σ_i/(√(2·v_i) + s_eps))/erfi(1/√2);  d = S = min(max(S, 0), s_max)
update  Δ = Δ·S'/(S' + s_eps) + lr·r·u, S' of before the step;  x = x0 - S·Δ
        {of}
"""
NOTES = """
For training that goes on while the task changes, as in lifelong reinforcement learning: where the updates lead astray,
S falls, down to 0 (`optimizer.d` shows 1e-300 then), and the weights return towards x0. `delta`, `freeze_after` and
`s_max` are as of Mechanic. trac-optimizer 0.0.2 has what is "recomputed" here, and an erfi that is 1 % too small
near 0, where this one is exact. The sums are those of the very step: one blocking reduce a step, or, with
before="lagged", those of the step before, hidden.
"""


@dataclass(frozen=True)
class TRACOptions(MethodOptions):
    """Options of TRAC."""

    lr: float = LR_OF_UPDATE()
    s_init: float = S_INIT(1e-8, "a number > 0")
    s_max: float = S_MAX()
    delta: str = DELTA()
    s_eps: float = S_EPS()


class TRACRule(ScaledSum):
    """TRAC over the direction of a subclass."""

    options = TRACOptions
    before = Sums(("g_delta", "g_sq"), needs="g_sq")
    polynomial_before = True

    def scale_unit(self, options: Options) -> float:
        return float(options["s_init"])

    def first_scale(self, options: Options) -> float:
        first = torch.full((BETTORS,), FIRST_SUM, dtype=torch.float64, device="cpu")
        ratio = betas_of(first) * first / float(options["s_eps"])
        return self.scale_unit(options) * float(erfi(ratio).sum()) / ERFI_OF_ROOT_HALF

    def scalars(self, options: Options) -> dict[str, Initial]:
        return {**super().scalars(options), "sigmas": (FIRST_SUM,) * BETTORS, "variances": (0.0,) * BETTORS}

    def measure_before(self, x: Tensor, g: Tensor, buf: Buffers, c: Coefficients) -> tuple[Tensor, ...]:
        return dot(g, self.sum_before(x, buf, c)), total(g.square())

    def fold_before(self, sums: Scalars, scalars: Scalars, constants: Mapping[str, Tensor]) -> Scalars:
        h, beta = sums["g_delta"].unsqueeze(1), betas_of(scalars["sigmas"])
        variances = beta**2 * scalars["variances"] + h.square()
        sigmas = beta * scalars["sigmas"] + h
        new = {"sigmas": sigmas, "variances": variances}
        whole = self.whole(scalars | new, constants)
        return {"d": torch.minimum(whole.clamp(min=LEAST), constants["s_max"]), **new}

    def whole(self, scalars: Scalars, constants: Mapping[str, Tensor]) -> Tensor:
        ratio = scalars["sigmas"] / (math.sqrt(2) * torch.sqrt(scalars["variances"]) + constants["s_eps"].unsqueeze(1))
        return scalars["scale_unit"] * erfi(ratio).sum(1) / ERFI_OF_ROOT_HALF


def erfi(x: Tensor) -> Tensor:
    """The imaginary error function, 2/√π·∫exp(t²)dt from 0 to x, elementwise, float64; infinite from about 26.6 on.

    Args:
        x: float64, of any shape.

    Example:
        >>> import torch
        >>> round(float(erfi(torch.tensor(0.5, dtype=torch.float64))), 12)
        0.614952094697
    """
    size = x.abs()
    near, far = size.clamp(max=FAR).unsqueeze(-1), size.clamp(min=FAR).unsqueeze(-1)
    n = torch.arange(1, TERMS + 1, dtype=torch.float64, device=x.device)
    powers = torch.cumprod(near.square() / n, -1)  # x^2n/n!
    series = near.squeeze(-1) * (1 + (powers / (2 * n + 1)).sum(-1))
    odd = torch.arange(1, 2 * FAR_TERMS, 2, dtype=torch.float64, device=x.device)
    tail = 1 + torch.cumprod(odd / (2 * far.square()), -1).sum(-1)  # asymptotic
    grown = torch.exp(far.squeeze(-1).square()) / (2 * far.squeeze(-1)) * tail
    return torch.where(size <= FAR, series, grown) * x.sign() * (2 / math.sqrt(math.pi))
