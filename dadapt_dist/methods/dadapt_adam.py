"""D-Adapt Adam: the step and the next d (Defazio & Mishchenko, arXiv 2301.07733, released v3 form)"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from ..options.fields import (
    BETAS,
    D0,
    EPS,
    FSDP_IN_USE,
    GROWTH_RATE,
    LOG_EVERY,
    LR,
    WEIGHT_DECAY,
    MethodOptions,
    switch,
)
from .base import Buffer, Buffers, Coefficients, Documentation, Initial, Method, Options, Scalars, Sums
from .ops import add_, bias_correction, dot, grown, root, total_abs


@dataclass(frozen=True)
class DAdaptAdamOptions(MethodOptions):
    """Options of `DAdaptAdam`."""

    lr: float = LR(1.0)
    betas: tuple[float, float] = BETAS((0.9, 0.999), "averaging constants of the gradient and of its square")
    eps: float = EPS(1e-8)
    weight_decay: float = WEIGHT_DECAY(0, doc="decay, added to the gradient as weight_decay·x")
    log_every: int = LOG_EVERY(0)
    decouple: bool = switch(False, "decay the parameters themselves, by weight_decay·d·lr a step")
    use_bias_correction: bool = switch(False, "Adam's bias correction, for long runs: d grows more slowly")
    d0: float = D0(1e-6)
    growth_rate: float = GROWTH_RATE(math.inf)
    fsdp_in_use: bool = FSDP_IN_USE(False)


class DAdaptAdamMethod(Method):
    """Adam with D-Adaptation."""

    options = DAdaptAdamOptions
    documentation = Documentation(
        summary="Adam with D-Adaptation.",
        when="runs that were tuned with the released DAdaptAdam; else Prodigy",
        reference="Defazio and Mishchenko, Learning-Rate-Free Learning by D-Adaptation, arXiv 2301.07733, in its released form",
        equations="""
            update  m = b1·m + (1-b1)·r·γ·g;  v = b2·v + (1-b2)·g²;  s = √b2·s + (1-√b2)·γ·g
                    x = x·(1 - wd·γ) - m/(√v + eps)
            sums    inner = Σ r·γ·g·s/(√v + eps) with s and v of before the step,  s_l1 = Σ r·|s|
            rule    num = √b2·num + (1-√b2)·inner;  d_hat = num/((1-√b2)·s_l1);  d = max(d, min(d_hat, d·growth_rate))
        """,
    )
    name = "dadapt_adam"
    after = Sums(("inner", "s_l1"), needs="s_l1")

    def scalars(self, options: Options) -> dict[str, Initial]:
        return {"d": options["d0"], "numerator": 0.0}

    def constants(self, options: Options) -> dict[str, float]:
        return super().constants(options) | {"average": math.sqrt(options["betas"][1])}

    def buffers(self, options: Options) -> dict[str, Buffer]:
        return {"s": Buffer(statistic=True), "exp_avg": Buffer(), "exp_avg_sq": Buffer(squares=True)}

    def coupled_decay(self, options: Options) -> float:
        return 0.0 if options["decouple"] else float(options["weight_decay"])

    def coefficients(self, options: Options, scalars: Scalars, constants: Mapping[str, float]) -> Coefficients:
        (beta1, beta2), decay, average = options["betas"], options["weight_decay"], constants["average"]
        gamma = scalars["d"] * options["lr"] * bias_correction(options, scalars["k"])
        scaled = gamma * options["layer_scale"]
        return {
            "b1": beta1, "to_m": scaled * (1 - beta1),
            "b2": beta2, "one_minus_b2": 1 - beta2,
            "b3": average, "to_s": gamma * (1 - average), "inner": scaled,
            "keep": 1 - gamma * decay if decay and options["decouple"] else None,
            "eps": options["eps"], "r": options["layer_scale"],
        }  # fmt: skip

    def update(self, x: Tensor, g: Tensor, buf: Buffers, c: Coefficients, cut: slice | None) -> tuple[Tensor, ...]:
        sums = self._statistics(g, buf, c) if "s" in buf else ()
        m = add_(buf["exp_avg"].mul_(c["b1"]), g, c["to_m"])
        v = buf["exp_avg_sq"].mul_(c["b2"]).addcmul_(g, g, value=c["one_minus_b2"])
        if c["keep"] is not None:
            x.mul_(c["keep"])
        x.addcdiv_(m, root(v, c["eps"]), value=-1)
        return sums

    def _statistics(self, g: Tensor, buf: Buffers, c: Coefficients) -> tuple[Tensor, ...]:
        s = buf["s"]
        inner = dot(g, s, root(buf["exp_avg_sq"], c["eps"])) * c["inner"]
        add_(s.mul_(c["b3"]), g, c["to_s"])
        return inner, total_abs(s) * c["r"]

    def fold_after(self, sums: Scalars, scalars: Scalars, constants: Mapping[str, Tensor]) -> Scalars:
        average = constants["average"]
        numerator = average * scalars["numerator"] + (1 - average) * sums["inner"]
        d_hat = numerator / ((1 - average) * sums["s_l1"])
        return {"d": grown(scalars, d_hat, constants), "numerator": numerator}
