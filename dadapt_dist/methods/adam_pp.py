"""Adam++: Adam whose step is the distance gone so far (Tao, Yuan, Zhou, Cao & Gu, arXiv 2412.19444, Algorithm 2)."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ..options.fields import BETAS, D0, EPS, LR, WEIGHT_DECAY, MethodOptions, number, option, text
from .base import Buffer, Buffers, Coefficients, Documentation, Options, Scalars
from .farthest import FarthestMethod
from .ops import add_, add_product_, add_ratio_, root


@dataclass(frozen=True)
class AdamPPOptions(MethodOptions):
    """Options of `AdamPP`."""

    lr: float = LR(1.0)
    betas: tuple[float, float] = BETAS((0.9, 0.999), "averaging constants of the gradient and of its square")
    beta1_decay: float = option(
        1.0,
        number,
        lambda value: 0 < value <= 1,
        "a number > 0 and <= 1",
        "1.0 keeps betas[0] as it is",
        "factor of betas[0] from step to step; the proofs want one below 1",
    )
    normalizer: str = option(
        "max",
        text,
        lambda value: value in ("max", "sum"),
        "'max' or 'sum'",
        "use the default, {usual}",
        "what divides the step: 'max' is √(k+1) times the largest root of the mean square so far, 'sum' AdaGrad's root",
    )
    eps: float = EPS(1e-8)
    weight_decay: float = WEIGHT_DECAY(0.0, doc="decoupled decay: a step shrinks x by weight_decay·d·lr")
    d0: float = D0(1e-6, doc="first step length, until the weights have gone farther than that")


class AdamPPMethod(FarthestMethod):
    """Adam with the step size d over √(k+1); d is the paper's η."""

    options = AdamPPOptions
    documentation = Documentation(
        summary="Experimental: Adam whose step size is the distance gone so far, Adam++.",
        when="experiments beside Prodigy; it overshot on small noisy sets",
        reference="Tao, Yuan, Zhou, Cao and Gu, Towards Simple and Provable Parameter-Free Adaptive Gradient Methods, "
        "arXiv 2412.19444, Algorithm 2",
        equations="""
            start   p = Σ 1
            update  b = b1·beta1_decay^k;  m = b·m + (1-b)·g
                    max:  v = b2·v + (1-b2)·g²;  V = max(V, v);  u = m/(√(k+1)·√V + eps)
                    sum:  V = V + g²;  u = m/(√V + eps)
                    x = x·(1 - wd·d·lr) - r·d·lr·u
            sums    dist_sq = Σ (x - x0)² with x of after the step
            rule    d = max(d, √(dist_sq/p))
        """,
        notes="""
            **Experimental.** It overshot in our trials on small noisy data sets: d, which never falls, followed weights that had
            gone too far, and the loss ended at 1.7 to 3 where other methods reached a fraction of it. Watch d and the held-out
            loss, and try normalizer="sum" or a smaller lr where they jump. Use Prodigy for work that matters.

            k counts the steps before this one, for all parameters alike. The step shrinks as 1/√k by itself. p is the number of
            elements that train, of all ranks, as the run begins. Its proofs are for convex losses and a beta1_decay below 1.
        """,
    )

    name = "adam_pp"
    counts_updates = True

    def own_buffers(self, options: Options) -> dict[str, Buffer]:
        if options["normalizer"] == "sum":
            return {"exp_avg": Buffer(), "sum_sq": Buffer(squares=True)}
        squares = {name: Buffer(squares=True) for name in ("exp_avg_sq", "max_exp_avg_sq")}
        return {"exp_avg": Buffer(), **squares}

    def coefficients(self, options: Options, scalars: Scalars, constants: Mapping[str, float]) -> Coefficients:
        beta1 = options["betas"][0] * options["beta1_decay"] ** scalars["updates"]
        beta2, rate, wd = options["betas"][1], scalars["d"] * options["lr"], float(options["weight_decay"])
        grows = torch.rsqrt(scalars["updates"] + 1) if options["normalizer"] == "max" else 1.0
        return {
            "b1": beta1, "to_m": 1 - beta1, "b2": beta2, "to_v": 1 - beta2, "rate": rate * options["layer_scale"] * grows,
            "eps": options["eps"] * grows, "keep": 1 - wd * rate if wd else None,
        }  # fmt: skip

    def move(self, x: Tensor, g: Tensor, buf: Buffers, c: Coefficients) -> None:
        m = add_(buf["exp_avg"].mul_(c["b1"]), g, c["to_m"])
        if "sum_sq" in buf:
            largest = add_product_(buf["sum_sq"], g, g, 1.0)
        else:
            v = add_product_(buf["exp_avg_sq"].mul_(c["b2"]), g, g, c["to_v"])
            largest = torch.maximum(buf["max_exp_avg_sq"], v, out=buf["max_exp_avg_sq"])
        if c["keep"] is not None:
            x.mul_(c["keep"])
        add_ratio_(x, m, root(largest, c["eps"]), -c["rate"])  # both over √(k+1)
