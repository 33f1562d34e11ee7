"""D-Adapt AdaGrad: the step and the next d (Defazio & Mishchenko, arXiv 2301.07733)"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from ..options.fields import D0, EPS, GROWTH_RATE, LOG_EVERY, LR, MOMENTUM, WEIGHT_DECAY, MethodOptions
from .base import Buffer, Buffers, Coefficients, Documentation, Initial, Method, Options, Scalars, Sums
from .ops import add_, dot, grown, root, total, total_abs


@dataclass(frozen=True)
class DAdaptAdaGradOptions(MethodOptions):
    """Options of `DAdaptAdaGrad`."""

    lr: float = LR(1.0)
    momentum: float = MOMENTUM(0)
    log_every: int = LOG_EVERY(0)
    weight_decay: float = WEIGHT_DECAY(0.0, doc="decay, added to the gradient as weight_decay·x")
    eps: float = EPS(1e-6)
    d0: float = D0(1e-6)
    growth_rate: float = GROWTH_RATE(math.inf)


class DAdaptAdaGradMethod(Method):
    """AdaGrad with D-Adaptation.

    The sums over s are computed anew each step; the released code adds up differences, the same number with drift.
    """

    options = DAdaptAdaGradOptions
    documentation = Documentation(
        summary="AdaGrad with D-Adaptation, for dense and sparse gradients.",
        when="sparse gradients, such as those of embedding tables",
        reference="Defazio and Mishchenko, Learning-Rate-Free Learning by D-Adaptation, arXiv 2301.07733",
        equations="""
            update  α = α + g², from 1e-6;  s = s + γ·g;  z = x0 - r·s/(√α + eps);  x = momentum·x + (1-momentum)·z
            sums    gsq = Σ r·γ²·g²/(√α + eps),  sksq = Σ r·s²/(√α + eps),  s_l1 = Σ r·|s|
            rule    G = G + gsq;  d_hat = (sksq - G)/s_l1;  d = max(d, min(d_hat, d·growth_rate))
        """,
        notes="""
            Takes sparse gradients, of which only the rows present are written; they need momentum and weight decay 0.
        """,
    )
    name = "dadapt_adagrad"
    after = Sums(("gsq", "sksq", "s_l1"), needs="s_l1")
    needs_sums_to_lower = True
    sparse = True
    zero_if_sparse = ("weight_decay", "momentum")
    first_square = 1e-6

    def scalars(self, options: Options) -> dict[str, Initial]:
        return {"d": options["d0"], "gsq_weighted": 0.0}

    def buffers(self, options: Options) -> dict[str, Buffer]:
        return {"alphak": Buffer(init=self.first_square, squares=True), "s": Buffer(), "x0": Buffer(init="param")}

    def coupled_decay(self, options: Options) -> float:
        return float(options["weight_decay"])

    def coefficients(self, options: Options, scalars: Scalars, constants: Mapping[str, float]) -> Coefficients:
        gamma, r = scalars["d"] * options["lr"], options["layer_scale"]
        return {
            "gamma": gamma,
            "gsq": gamma * gamma * r,
            "r": r,
            "eps": options["eps"],
            "pull": 1 - options["momentum"],
        }

    def update(self, x: Tensor, g: Tensor, buf: Buffers, c: Coefficients, cut: slice | None) -> tuple[Tensor, ...]:
        s = add_(buf["s"], g, c["gamma"])
        square = g * g
        denom = root(buf["alphak"].add_(square), c["eps"])
        z = buf["x0"] - s * c["r"] / denom
        if c["pull"] == 1:
            x.copy_(z)
        else:
            x.add_((z - x).mul_(c["pull"]))
        return total(square.div_(denom)) * c["gsq"], dot(s, s, denom) * c["r"], total_abs(s) * c["r"]

    def update_sparse(self, x: Tensor, g: Tensor, buf: Buffers, c: Coefficients) -> tuple[Tensor, ...]:
        """Only the rows in the coalesced gradient are written; the sums over s read the whole buffers."""
        if c["pull"] != 1:
            raise ValueError("dadapt_adagrad: sparse gradients need momentum=0: momentum would move every row")
        rows, values = tuple(g.indices()), g.values()
        s, alphak = buf["s"], buf["alphak"]
        s[rows] += values * c["gamma"]
        alphak[rows] += values * values
        denom = alphak[rows].sqrt_().add_(c["eps"])
        x[rows] = buf["x0"][rows] - s[rows] * c["r"] / denom
        gsq = total(values * values / denom) * c["gsq"]
        return gsq, dot(s, s, root(alphak, c["eps"])) * c["r"], total_abs(s) * c["r"]

    def moved(
        self, d: float, scalars: Mapping[str, float], sums: Mapping[str, float] | None, constants: Mapping[str, float]
    ) -> dict[str, float]:
        lowest = -math.inf if sums is None else sums["sksq"] - d * sums["s_l1"]
        return {
            "d": d,
            "gsq_weighted": max(scalars["gsq_weighted"], lowest) if d < scalars["d"] else scalars["gsq_weighted"],
        }

    def squared(self, g: Tensor, before: Buffers, after: Buffers, c: Coefficients) -> tuple[Tensor, ...]:
        return g, after["s"]

    def fold_after(self, sums: Scalars, scalars: Scalars, constants: Mapping[str, Tensor]) -> Scalars:
        gsq_weighted = scalars["gsq_weighted"] + sums["gsq"]
        d_hat = (sums["sksq"] - gsq_weighted) / sums["s_l1"]
        return {"d": grown(scalars, d_hat, constants), "gsq_weighted": gsq_weighted}
