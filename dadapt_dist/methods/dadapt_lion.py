"""D-Adapt Lion: the step and the next d (released with arXiv 2301.07733; Lion: arXiv 2302.06675)"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ..options.fields import BETAS, D0, FSDP_IN_USE, LOG_EVERY, LR, WEIGHT_DECAY, MethodOptions
from .base import Buffer, Buffers, Coefficients, Documentation, Initial, Method, Options, Scalars, Sums
from .ops import add_, dot, total_abs


@dataclass(frozen=True)
class DAdaptLionOptions(MethodOptions):
    """Options of `DAdaptLion`."""

    lr: float = LR(1.0)
    betas: tuple[float, float] = BETAS((0.9, 0.99), "averaging constants of the update and of the momentum")
    weight_decay: float = WEIGHT_DECAY(0.0, doc="decay of the parameters, by weight_decay·d·lr a step")
    log_every: int = LOG_EVERY(0)
    d0: float = D0(1e-6)
    fsdp_in_use: bool = FSDP_IN_USE(False)


class DAdaptLionMethod(Method):
    """Lion with D-Adaptation."""

    options = DAdaptLionOptions
    documentation = Documentation(
        summary="Lion with D-Adaptation.",
        when="little memory: two buffers a parameter, one when frozen",
        reference="released beside Defazio and Mishchenko, arXiv 2301.07733; Lion: Chen et al., arXiv 2302.06675",
        equations="""
            update  u = sign(b1·m + (1-b1)·g);  x = x·(1 - γ·wd) - r·γ·u;  m = b2·m + (1-b2)·γ·g;  s = √b2·s + (1-√b2)·γ·u
            sums    inner = Σ r·γ·u·s with s of before the step,  s_l1 = Σ r·|s|
            rule    num = √b2·num + (1-√b2)·inner;  d_hat = num/((1-√b2)·s_l1);  d = max(d, d_hat)
        """,
    )
    name = "dadapt_lion"
    after = Sums(("inner", "s_l1"), needs="s_l1")

    def scalars(self, options: Options) -> dict[str, Initial]:
        return {"d": options["d0"], "numerator": 0.0}

    def constants(self, options: Options) -> dict[str, float]:
        return super().constants(options) | {"average": math.sqrt(options["betas"][1])}

    def buffers(self, options: Options) -> dict[str, Buffer]:
        return {"s": Buffer(statistic=True), "exp_avg": Buffer()}

    def coefficients(self, options: Options, scalars: Scalars, constants: Mapping[str, float]) -> Coefficients:
        (beta1, beta2), average = options["betas"], constants["average"]
        gamma, r = scalars["d"] * options["lr"], options["layer_scale"]
        return {
            "b1": beta1, "one_minus_b1": 1 - beta1, "b2": beta2, "to_m": gamma * (1 - beta2),
            "average": average, "to_s": gamma * (1 - average), "step": gamma * r, "r": r,
            "keep": 1 - gamma * options["weight_decay"] if options["weight_decay"] else None,
        }  # fmt: skip

    def update(self, x: Tensor, g: Tensor, buf: Buffers, c: Coefficients, cut: slice | None) -> tuple[Tensor, ...]:
        u = (buf["exp_avg"] * c["b1"]).add_(g, alpha=c["one_minus_b1"]).sign_()
        if c["keep"] is not None:
            x.mul_(c["keep"])
        add_(x, u, -c["step"])
        add_(buf["exp_avg"].mul_(c["b2"]), g, c["to_m"])
        return self._statistics(u, buf["s"], c) if "s" in buf else ()

    def _statistics(self, u: Tensor, s: Tensor, c: Coefficients) -> tuple[Tensor, ...]:
        inner = dot(u, s) * c["step"]
        add_(s.mul_(c["average"]), u, c["to_s"])
        return inner, total_abs(s) * c["r"]

    def squared(self, g: Tensor, before: Buffers, after: Buffers, c: Coefficients) -> tuple[Tensor, ...]:
        return ()

    def fold_after(self, sums: Scalars, scalars: Scalars, constants: Mapping[str, Tensor]) -> Scalars:
        average = constants["average"]
        numerator = average * scalars["numerator"] + (1 - average) * sums["inner"]
        d_hat = numerator / ((1 - average) * sums["s_l1"])
        return {"d": torch.maximum(scalars["d"], d_hat), "numerator": numerator}
