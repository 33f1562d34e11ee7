"""D-Adapt Adan: the step and the next d (released with arXiv 2301.07733; Adan: arXiv 2208.06677)"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ..options.fields import BETAS, D0, EPS, GROWTH_RATE, LOG_EVERY, LR, WEIGHT_DECAY, MethodOptions, switch
from .base import Buffer, Buffers, Coefficients, Documentation, Initial, Method, Options, Scalars, Sums
from .ops import add_, dot, grown, root, total_abs


@dataclass(frozen=True)
class DAdaptAdanOptions(MethodOptions):
    """Options of `DAdaptAdan`."""

    lr: float = LR(1.0)
    betas: tuple[float, float, float] = BETAS(
        (0.98, 0.92, 0.99), "averaging constants of the gradient, of its difference and of the square"
    )
    eps: float = EPS(1e-8)
    weight_decay: float = WEIGHT_DECAY(0.02, doc="decay of the parameters, by weight_decay·d·lr a step")
    no_prox: bool = switch(False, "shrink the parameters by (1 - weight_decay·d·lr) before the step, not after it")
    log_every: int = LOG_EVERY(0)
    d0: float = D0(1e-6)
    growth_rate: float = GROWTH_RATE(math.inf)


class DAdaptAdanMethod(Method):
    """Adan with D-Adaptation.

    `pre_grad` starts as NaN, "no gradient seen yet": a buffer survives sharding and checkpoints, a flag would not.
    """

    options = DAdaptAdanOptions
    documentation = Documentation(
        summary="Adan with D-Adaptation.",
        when="vision models that Adan trains; five buffers a parameter",
        reference="released beside Defazio and Mishchenko, arXiv 2301.07733; Adan: Xie et al., arXiv 2208.06677",
        equations="""
            update  diff = g - g_prev, 0 at a parameter's first step;  u = g + b2·diff
                    m = b1·m + (1-b1)·r·γ·g;  n = b2·n + (1-b2)·r·γ·diff;  v = b3·v + (1-b3)·u²;  den = √v + eps
                    s = b3·s + (1-b3)·γ·g
                    x = (x - (m + b2·n)/den)/(1 + γ·wd);  with no_prox: x = x·(1 - γ·wd) - (m + b2·n)/den
            sums    gsq = Σ r·γ²·g²/den,  sksq = Σ r·s²/den,  s_l1 = Σ r·|s|
            rule    G = b3·G + (1-b3)·gsq;  d_hat = (sksq/(1-b3) - G)/s_l1;  d = max(d, min(d_hat, d·growth_rate))
        """,
    )
    name = "dadapt_adan"
    after = Sums(("gsq", "sksq", "s_l1"), needs="s_l1")
    needs_sums_to_lower = True

    def scalars(self, options: Options) -> dict[str, Initial]:
        return {"d": options["d0"], "gsq_weighted": 0.0}

    def constants(self, options: Options) -> dict[str, float]:
        return super().constants(options) | {"average": float(options["betas"][2])}

    def buffers(self, options: Options) -> dict[str, Buffer]:
        return {
            "s": Buffer(statistic=True),
            "exp_avg": Buffer(),
            "exp_avg_diff": Buffer(),
            "exp_avg_sq": Buffer(squares=True),
            "pre_grad": Buffer(init=float("nan")),
        }

    def coefficients(self, options: Options, scalars: Scalars, constants: Mapping[str, float]) -> Coefficients:
        beta1, beta2, beta3 = options["betas"]
        gamma, r, average = scalars["d"] * options["lr"], options["layer_scale"], constants["average"]
        scaled, decay = gamma * r, options["weight_decay"]
        return {
            "b1": beta1, "to_m": scaled * (1 - beta1),
            "b2": beta2, "to_n": scaled * (1 - beta2),
            "b3": beta3, "one_minus_b3": 1 - beta3,
            "average": average, "to_s": gamma * (1 - average), "gsq": gamma * gamma * r, "r": r,
            "keep": 1 - gamma * decay if decay and options["no_prox"] else None,
            "shrink": 1 + gamma * decay if decay and not options["no_prox"] else None,
            "eps": options["eps"],
        }  # fmt: skip

    def update(self, x: Tensor, g: Tensor, buf: Buffers, c: Coefficients, cut: slice | None) -> tuple[Tensor, ...]:
        before = buf["pre_grad"]
        look_ahead, diff = _look_ahead(g, before, c)
        m = add_(buf["exp_avg"].mul_(c["b1"]), g, c["to_m"])
        n = add_(buf["exp_avg_diff"].mul_(c["b2"]), diff, c["to_n"])
        v = buf["exp_avg_sq"].mul_(c["b3"]).addcmul_(look_ahead, look_ahead, value=c["one_minus_b3"])
        denom = root(v, c["eps"])
        before.copy_(g)
        if c["keep"] is not None:
            x.mul_(c["keep"])
        x.addcdiv_(torch.add(m, n, alpha=c["b2"]), denom, value=-1)
        if c["shrink"] is not None:
            x.div_(c["shrink"])
        return self._statistics(g, buf["s"], denom, c) if "s" in buf else ()

    def _statistics(self, g: Tensor, s: Tensor, denom: Tensor, c: Coefficients) -> tuple[Tensor, ...]:
        gsq = dot(g, g, denom) * c["gsq"]
        add_(s.mul_(c["average"]), g, c["to_s"])
        return gsq, dot(s, s, denom) * c["r"], total_abs(s) * c["r"]

    def moved(
        self, d: float, scalars: Mapping[str, float], sums: Mapping[str, float] | None, constants: Mapping[str, float]
    ) -> dict[str, float]:
        lowest = -math.inf if sums is None else sums["sksq"] / (1 - constants["average"]) - d * sums["s_l1"]
        return {
            "d": d,
            "gsq_weighted": max(scalars["gsq_weighted"], lowest) if d < scalars["d"] else scalars["gsq_weighted"],
        }

    def squared(self, g: Tensor, before: Buffers, after: Buffers, c: Coefficients) -> tuple[Tensor, ...]:
        return g, _look_ahead(g, before["pre_grad"], c)[0], *([after["s"]] if "s" in after else [])

    def fold_after(self, sums: Scalars, scalars: Scalars, constants: Mapping[str, Tensor]) -> Scalars:
        average = constants["average"]
        gsq_weighted = average * scalars["gsq_weighted"] + (1 - average) * sums["gsq"]
        d_hat = (sums["sksq"] / (1 - average) - gsq_weighted) / sums["s_l1"]
        return {"d": grown(scalars, d_hat, constants), "gsq_weighted": gsq_weighted}


def _look_ahead(g: Tensor, before: Tensor, c: Coefficients) -> tuple[Tensor, Tensor]:
    """u and diff."""
    diff = g - torch.where(before.isnan(), g, before)
    return torch.add(g, diff, alpha=c["b2"]), diff
