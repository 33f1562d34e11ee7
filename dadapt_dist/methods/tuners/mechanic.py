"""Mechanic (Cutkosky, Defazio & Mehta, arXiv 2306.00144, Algorithm 1; released in optax and as mechanic-pytorch)."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ...options.fields import MethodOptions, is_nonnegative, number, option, optional, text
from ..base import Buffers, Coefficients, Initial, Options, Scalars, Sums
from ..ops import dot, total
from .scaled_sum import BETTORS, DELTA, LR_OF_UPDATE, S_EPS, S_INIT, S_MAX, ScaledSum, betas_of

OPTAX, AUTHORS = "optax", "authors"
"""The released forms: optax.contrib.mechanize, and mechanic-pytorch."""
S_INITS = {OPTAX: 1e-6, AUTHORS: 1e-8}
FIRST_PRODUCTS = {OPTAX: 0.0, AUTHORS: 1e-6}

EQUATIONS = """
before  h = Σ Δ·(g + s_decay·S·(‖g‖/(‖x‖ + s_eps))·x)
        for six β_i = 1 - 10^-i:  r_i = β_i·r_i + s_i·min(max(h, -m_i), m_i), with s_i and m_i of before the step
        m_i = max(β_i·m_i, |h| + s_eps);  v_i = β_i²·v_i + h²
        s_i = (s_init·m_i/6 + max(r_i, 0))/(√v_i + s_eps);  S = min(Σ s_i, s_max);  d = S
update  Δ = Δ·S'/(S' + s_eps) + lr·r·u, S' of before the step;  x = x0 - S·Δ
        {of}
"""
NOTES = """
Two forms are released, and `variant` says which: "optax" is optax 0.2.8, "authors" is mechanic-pytorch 0.0.1, where
r_i = max(β_i·r_i + s_i·h, 0), m_i = max(β_i·m_i, |h|) from 1e-6, and the decay of h sees x - lr·r·u in the
place of x{cost}. The default of `s_init` is 1e-6 in the first and 1e-8 in the second.

`delta` says how Δ is known. "stored" keeps it in a buffer (float32 where weights are narrower), with the factor
S'/(S' + s_eps) that both packages have where they recompute it as (x0 - x)/(S' + s_eps). "recomputed" does that,
without the buffer: it needs weights in float32 or wider, and a gradient of every tensor in every step. "summed"
leaves the factor out, as the paper does, and mechanic-pytorch with store_delta=True.

S is what `optimizer.d` shows. It may fall. `s_max` bounds it, and `freeze_after` stops it; the buffers stay then, since
the weights are x0 - S·Δ to the end. The four sums are those of the very step: one blocking reduce a step, or, with
before="lagged", those of the step before, hidden.
"""


@dataclass(frozen=True)
class MechanicOptions(MethodOptions):
    """Options of Mechanic."""

    lr: float = LR_OF_UPDATE()
    variant: str = option(
        OPTAX,
        text,
        lambda value: value in S_INITS,
        "'optax' or 'authors'",
        "use the default, {usual}",
        "which released form: 'optax' is optax.contrib.mechanize, 'authors' is mechanic-pytorch",
        of_estimate=True,
    )
    s_init: float | None = S_INIT(None, "a number > 0, or None for that of the variant", optional)
    s_decay: float = option(
        0.01,
        number,
        is_nonnegative,
        "a number >= 0",
        "use the default, {usual}; 0 turns it off",
        "decay that the rule of S sees beside the gradient; no weight is decayed by it",
        of_estimate=True,
    )
    s_max: float = S_MAX()
    delta: str = DELTA()
    s_eps: float = S_EPS()


class MechanicRule(ScaledSum):
    """Mechanic over the direction of a subclass."""

    options = MechanicOptions
    before = Sums(("g_delta", "x_delta", "g_sq", "x_sq"), needs="g_sq")
    proportional = ("scale_unit", "bets", "rewards")
    fixed_options = ("delta", "variant")

    def scale_unit(self, options: Options) -> float:
        return float(options["s_init"] or S_INITS[options["variant"]])

    def first_scale(self, options: Options) -> float:
        first, eps = FIRST_PRODUCTS[options["variant"]], float(options["s_eps"])
        return self.scale_unit(options) * (first / eps if first else 1.0)

    def scalars(self, options: Options) -> dict[str, Initial]:
        common = super().scalars(options)
        first = FIRST_PRODUCTS[options["variant"]]
        return {
            **common,
            "bets": (float(common["d"]) / BETTORS,) * BETTORS,  # type: ignore[arg-type]
            "rewards": (0.0,) * BETTORS,
            "products": (first,) * BETTORS,
            "variances": (0.0,) * BETTORS,
        }

    def constants(self, options: Options) -> dict[str, float]:
        of_optax = options["variant"] == OPTAX
        return {
            **super().constants(options),
            "s_decay": float(options["s_decay"]),
            "least_product": float(options["s_eps"]) if of_optax else 0.0,
            "least_reward": -math.inf if of_optax else 0.0,
            "clips": float(of_optax),
        }

    # ---------------------------------------------------------------- sums

    def measures_update(self, options: Options) -> bool:
        return bool(options["variant"] == AUTHORS)

    def own_coefficients(self, options: Options, scalars: Scalars, constants: Mapping[str, float]) -> Coefficients:
        return super().own_coefficients(options, scalars, constants) | {"ahead": float(self.measures_update(options))}

    def measure_before(self, x: Tensor, g: Tensor, buf: Buffers, c: Coefficients) -> tuple[Tensor, ...]:
        delta = self.sum_before(x, buf, c)
        if c["ahead"]:
            x = x - self.tried(x, g, buf, c) * c["along"]
        return dot(g, delta), dot(x, delta), total(g.square()), total(x.square())

    def fold_before(self, sums: Scalars, scalars: Scalars, constants: Mapping[str, Tensor]) -> Scalars:
        eps, beta = constants["s_eps"], betas_of(scalars["bets"])
        pull = constants["s_decay"] * scalars["d"] * torch.sqrt(sums["g_sq"]) / (torch.sqrt(sums["x_sq"]) + eps)
        h = (sums["g_delta"] + pull * sums["x_delta"]).unsqueeze(1)
        bound = torch.where(constants["clips"].unsqueeze(1) > 0, scalars["products"], torch.full_like(h, math.inf))
        seen = torch.minimum(torch.maximum(h, -bound), bound)
        rewards = torch.maximum(beta * scalars["rewards"] + scalars["bets"] * seen, constants["least_reward"][:, None])
        products = torch.maximum(beta * scalars["products"], h.abs() + constants["least_product"].unsqueeze(1))
        variances = beta**2 * scalars["variances"] + h.square()
        new = {"rewards": rewards, "products": products, "variances": variances}
        bets = _bets(scalars | new, constants)
        whole = bets.sum(1)
        share = (constants["s_max"] / whole).clamp(max=1.0)  # what is not at stake earns nothing
        return {"d": torch.minimum(whole, constants["s_max"]), "bets": bets * share.unsqueeze(1), **new}

    def whole(self, scalars: Scalars, constants: Mapping[str, Tensor]) -> Tensor:
        return _bets(scalars, constants).sum(1)


def _bets(scalars: Scalars, constants: Mapping[str, Tensor]) -> Tensor:
    """The s_i before the cap: float64 [n_estimates, BETTORS]."""
    wealth = scalars["scale_unit"].unsqueeze(1) / BETTORS * scalars["products"] + scalars["rewards"].clamp(min=0)
    return wealth / (torch.sqrt(scalars["variances"]) + constants["s_eps"].unsqueeze(1))
