"""Prodigy: the step and the next d (Mishchenko & Defazio, arXiv 2306.06101, Algorithm 3)"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ..options.fields import (
    BETAS,
    D0,
    EPS,
    FSDP_IN_USE,
    GROWTH_RATE,
    LR,
    WEIGHT_DECAY,
    MethodOptions,
    integer,
    is_fraction,
    is_positive,
    number,
    option,
    optional,
    switch,
)
from .base import Buffer, Buffers, Coefficients, Documentation, Initial, KernelSignature, Method, Options, Scalars, Sums
from .ops import add_, add_product_, add_ratio_, bias_correction, dot_difference, root, total_abs


@dataclass(frozen=True)
class ProdigyOptions(MethodOptions):
    """Options of `Prodigy`."""

    lr: float = LR(1.0)
    betas: tuple[float, float] = BETAS(
        (0.9, 0.999), "averaging constants of the gradient and of its square; betas[0] = 0 keeps no momentum"
    )
    beta3: float | None = option(
        None,
        optional,
        lambda value: value is None or is_fraction(value),
        "None or a number in [0, 1)",
        "leave None: sqrt(betas[1])",
        "averaging constant of the estimate; None: sqrt(betas[1])",
    )
    eps: float = EPS(1e-8)
    weight_decay: float = WEIGHT_DECAY(0, doc="decay of the parameters, by weight_decay·d·lr a step")
    decouple: bool = switch(True, "decay the parameters themselves; False adds the decay to the gradient")
    use_bias_correction: bool = switch(False, "Adam's bias correction, for long runs: d grows more slowly")
    safeguard_warmup: bool = switch(False, "leave lr out of the estimate, so that a warm-up does not make d too large")
    d0: float = D0(1e-6)
    d_coef: float = option(
        1.0,
        number,
        is_positive,
        "a number > 0",
        "1.0 is the method's own estimate; 0.5 to 2 are usual",
        "multiplies the estimate: the knob to turn when d comes out too large or too small",
    )
    growth_rate: float = GROWTH_RATE(math.inf)
    fsdp_in_use: bool = FSDP_IN_USE(False)
    slice_p: int = option(
        1,
        integer,
        lambda value: 1 <= value <= 2**53,
        "an integer >= 1, at most 2**53",
        "1 uses every entry; 11 is usual to save memory",
        "keep the buffers of the estimate for every slice_p-th element only",
    )


class ProdigyMethod(Method):
    """Prodigy, with d known before the step.

    eps is scaled by d_k as in the paper; the released code scales it by d_{k+1}, which would need the global sums before
    the update can be written (docs/deviations.md has the measured size).
    """

    options = ProdigyOptions
    documentation = Documentation(
        summary="Adam whose step size is found, not tuned.",
        when="first choice, for everything that Adam or AdamW trains",
        reference=(
            "Mishchenko and Defazio, Prodigy: An Expeditiously Adaptive Parameter-Free Learner, arXiv 2306.06101, "
            "Algorithm 3"
        ),
        equations="""
            update  w = (d/d0)·γ;  w_s = w, or (d/d0)·d with safeguard_warmup
                    m = b1·m + (1-b1)·d·g          (betas[0] = 0: no m is kept, d·g takes its place)
                    v = b2·v + (1-b2)·d²·g²
                    s = b3·s + w_s·g               b3 = beta3, or √b2
                    x = x·(1 - wd·γ) - r·γ·m/(√v + d·eps)
            sums    inner = Σ w·g·(x0 - x),  s_l1 = Σ r·|s|
            rule    num = b3·num + inner;  d_hat = d_coef·num/s_l1;  d_max = max(d_max, d_hat)
                    d = max(d, d_hat) if d is still d0;  d = min(d_max, d·growth_rate)
        """,
    )
    signature = KernelSignature(
        index=0,
        fields=("exp_avg", "exp_avg_sq", "s", "p0"),
        coefficients=("b1", "to_m", "b2", "to_v", "b3", "to_s", "keep", "step", "eps"),
        factors=lambda c: (c["inner"], c["r"]),
        statistic="s",
        read_only=1,
        sliced=True,
    )

    name = "prodigy"
    after = Sums(("inner", "s_l1"), needs="s_l1")

    def scalars(self, options: Options) -> dict[str, Initial]:
        return {"d": options["d0"], "d_max": options["d0"], "numerator": 0.0}

    def constants(self, options: Options) -> dict[str, float]:
        average = math.sqrt(options["betas"][1]) if options["beta3"] is None else float(options["beta3"])
        return super().constants(options) | {"average": average}

    def buffers(self, options: Options) -> dict[str, Buffer]:
        buffers = {
            "p0": Buffer(init="param", statistic=True, sliced=True),
            "s": Buffer(statistic=True, sliced=True),
            "exp_avg_sq": Buffer(squares=True),
        }
        if options["betas"][0] > 0:  # without momentum d·g itself takes the place of m
            buffers["exp_avg"] = Buffer()
        return buffers

    def coupled_decay(self, options: Options) -> float:
        return 0.0 if options["decouple"] else float(options["weight_decay"])

    def coefficients(self, options: Options, scalars: Scalars, constants: Mapping[str, float]) -> Coefficients:
        d = scalars["d"]
        (beta1, beta2), decay = options["betas"], options["weight_decay"]
        gamma = d * options["lr"] * bias_correction(options, scalars["k"])
        weight = d / constants["d0"] * gamma
        return {
            "b1": beta1, "to_m": d * (1 - beta1),
            "b2": beta2, "to_v": d * d * (1 - beta2),
            "b3": constants["average"], "inner": weight,
            "to_s": d / constants["d0"] * d if options["safeguard_warmup"] else weight,
            "keep": 1 - gamma * decay if decay and options["decouple"] else None,
            "step": gamma * options["layer_scale"], "eps": d * options["eps"], "r": options["layer_scale"],
        }  # fmt: skip

    def update(self, x: Tensor, g: Tensor, buf: Buffers, c: Coefficients, cut: slice | None) -> tuple[Tensor, ...]:
        sums = self._statistics(x, g, buf, c, cut) if "s" in buf else ()
        v = add_product_(buf["exp_avg_sq"].mul_(c["b2"]), g, g, c["to_v"])
        if "exp_avg" in buf:
            m = add_(buf["exp_avg"].mul_(c["b1"]), g, c["to_m"])
        else:
            m = g * c["to_m"]
        if c["keep"] is not None:
            x.mul_(c["keep"])
        add_ratio_(x, m, root(v, c["eps"]), -c["step"])
        return sums

    def _statistics(self, x: Tensor, g: Tensor, buf: Buffers, c: Coefficients, cut: slice | None) -> tuple[Tensor, ...]:
        if cut is not None:
            x, g = x.reshape(-1)[cut], g.reshape(-1)[cut]
        inner = dot_difference(g, buf["p0"], x) * c["inner"]
        s = add_(buf["s"].mul_(c["b3"]), g, c["to_s"])
        return inner, total_abs(s) * c["r"]

    def fold_after(self, sums: Scalars, scalars: Scalars, constants: Mapping[str, Tensor]) -> Scalars:
        numerator = constants["average"] * scalars["numerator"] + sums["inner"]
        d_hat = constants["d_coef"] * numerator / sums["s_l1"]
        d, d_max = scalars["d"], torch.maximum(scalars["d_max"], d_hat)
        d = torch.where(d == constants["d0"], torch.maximum(d, d_hat), d)
        return {"d": torch.minimum(d_max, d * constants["growth_rate"]), "d_max": d_max, "numerator": numerator}
