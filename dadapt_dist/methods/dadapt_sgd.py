"""D-Adapt SGD: the step and the next d (Defazio & Mishchenko, arXiv 2301.07733)"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ..options.fields import D0, FSDP_IN_USE, GROWTH_RATE, LOG_EVERY, LR, MOMENTUM, WEIGHT_DECAY, MethodOptions
from .base import Buffer, Buffers, Coefficients, Documentation, Initial, Method, Options, Scalars, Sums
from .ops import add_, dot, grown, total


@dataclass(frozen=True)
class DAdaptSGDOptions(MethodOptions):
    """Options of `DAdaptSGD`."""

    lr: float = LR(1.0)
    momentum: float = MOMENTUM(0.0)
    weight_decay: float = WEIGHT_DECAY(0, doc="decay, added to the gradient as weight_decay·x")
    log_every: int = LOG_EVERY(0)
    d0: float = D0(1e-6)
    growth_rate: float = GROWTH_RATE(math.inf)
    fsdp_in_use: bool = FSDP_IN_USE(False)


class DAdaptSGDMethod(Method):
    """SGD with D-Adaptation and momentum.

    The released code divides by zero when the first gradient is zero, and leaves weight decay out of ‖g0‖.
    """

    options = DAdaptSGDOptions
    documentation = Documentation(
        summary="SGD with D-Adaptation and momentum.",
        when="what SGD trains well, such as convolutional networks",
        reference="Defazio and Mishchenko, Learning-Rate-Free Learning by D-Adaptation, arXiv 2301.07733",
        equations="""
            update  γ = d·lr/‖g0‖;  s = s + γ·g;  x = momentum·x + (1-momentum)·(x0 - r·s)
            sums    inner = Σ r·γ·g·s with s of before the step,  s_sq = Σ r·s²
            rule    num = num + inner;  d_hat = 2·num/√s_sq;  d = max(d, min(d_hat, d·growth_rate))
        """,
        notes="""
            ‖g0‖² = Σ r·g² of the first step whose gradients are not all zero. It is needed before that step's
            update: one blocking reduce, once. Until then nothing moves. Where a framework brings a step in pieces (ZeRO), and
            with before="lagged", that step only measures, and the first update is one step later.
        """,
    )
    name = "dadapt_sgd"
    before = Sums(("g_sq",), needs="g_sq")
    after = Sums(("inner", "s_sq"), needs="s_sq")

    def scalars(self, options: Options) -> dict[str, Initial]:
        return {"d": options["d0"], "numerator": 0.0, "g0_norm": 0.0}

    def buffers(self, options: Options) -> dict[str, Buffer]:
        return {"s": Buffer(), "x0": Buffer(init="param")}  # both make up the iterate: freezing keeps them

    def coupled_decay(self, options: Options) -> float:
        return float(options["weight_decay"])

    def coefficients(self, options: Options, scalars: Scalars, constants: Mapping[str, float]) -> Coefficients:
        norm = scalars["g0_norm"]
        # While ‖g0‖ is unset (every gradient so far was zero) the step length is 0 instead of a division by zero.
        gamma = torch.where(norm > 0, scalars["d"] * options["lr"] / torch.where(norm > 0, norm, 1.0), 0.0)
        ready = (norm > 0).to(norm.dtype)
        return {
            "gamma": gamma, "r": options["layer_scale"], "pull": (1 - options["momentum"]) * ready,
        }  # fmt: skip

    def update(self, x: Tensor, g: Tensor, buf: Buffers, c: Coefficients, cut: slice | None) -> tuple[Tensor, ...]:
        s, r = buf["s"], c["r"]
        inner = dot(g, s) * (c["gamma"] * r)
        add_(s, g, c["gamma"])
        x.add_((buf["x0"] - s * r).sub_(x).mul_(c["pull"]))
        return inner, dot(s, s) * r

    def squared(self, g: Tensor, before: Buffers, after: Buffers, c: Coefficients) -> tuple[Tensor, ...]:
        product = (g * before["s"]).abs_().sqrt_()  # inner has products, which must not overflow either
        return after["s"], product, g * (c["gamma"] == 0)  # g while ‖g0‖, in which it is squared, is not known yet

    def fold_after(self, sums: Scalars, scalars: Scalars, constants: Mapping[str, Tensor]) -> Scalars:
        numerator = scalars["numerator"] + sums["inner"]
        d_hat = 2 * numerator / torch.sqrt(sums["s_sq"])
        return {"d": grown(scalars, d_hat, constants), "numerator": numerator}

    def measure_before(self, x: Tensor, g: Tensor, buf: Buffers, c: Coefficients) -> tuple[Tensor, ...]:
        return (total(g.square()) * c["r"],)

    def fold_before(self, sums: Scalars, scalars: Scalars, constants: Mapping[str, Tensor]) -> Scalars:
        return {"g0_norm": torch.sqrt(sums["g_sq"])}

    def wants_before(self, scalars: Scalars) -> Tensor:
        return scalars["g0_norm"] == 0

    def learning_rate(self, options: Options, scalars: Scalars) -> Tensor | float:
        norm = scalars["g0_norm"]
        return torch.where(norm > 0, super().learning_rate(options, scalars) / torch.where(norm > 0, norm, 1.0), 0.0)
