"""Schedule-Free AdamW whose learning rate is Prodigy's d (Defazio et al., arXiv 2405.15682; Mishchenko & Defazio, 2306.06101)."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ..options.fields import (
    D0,
    EPS,
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
)
from .base import Buffer, Buffers, Coefficients, Documentation, Initial, Options, Scalars, Sums
from .ops import add_, dot_difference, total_abs
from .schedule_free import KEEP_AVERAGE, SHARED_BETAS, WARMUP_STEPS, WEIGHT_LR_POWER, R, ScheduleFree
from .schedule_free_adamw import decayed, normalization, normalized


@dataclass(frozen=True)
class ProdigyScheduleFreeOptions(MethodOptions):
    """Options of `ProdigyScheduleFree`."""

    lr: float = LR(1.0, doc="multiplies d. Leave it at 1.0, without a scheduler; a group with lr 0 does not move")
    betas: tuple[float, float] = SHARED_BETAS((0.9, 0.999))
    beta3: float | None = option(
        None,
        optional,
        lambda value: value is None or is_fraction(value),
        "None or a number in [0, 1)",
        "leave None: sqrt(betas[1])",
        "averaging constant of the estimate; None: sqrt(betas[1])",
        of_estimate=True,
    )
    eps: float = EPS(1e-8)
    weight_decay: float = WEIGHT_DECAY(0.0, doc="decay of the parameters, by weight_decay·γ·y a step")
    d0: float = D0(1e-6)
    d_coef: float = option(
        1.0,
        number,
        is_positive,
        "a number > 0",
        "1.0 is the method's own estimate; 0.5 to 2 are usual",
        "multiplies the estimate: the knob to turn when d comes out too large or too small",
        of_estimate=True,
    )
    growth_rate: float = GROWTH_RATE(math.inf)
    warmup_steps: int = WARMUP_STEPS()
    r: float = R()
    weight_lr_power: float = WEIGHT_LR_POWER()
    slice_p: int = option(
        1,
        integer,
        lambda value: 1 <= value <= 2**53,
        "an integer >= 1, at most 2**53",
        "1 uses every entry; 11 is usual to save memory",
        "keep the buffers of the estimate for every slice_p-th element only",
    )
    keep_average: bool = KEEP_AVERAGE()


class ProdigyScheduleFreeMethod(ScheduleFree):
    """Schedule-Free AdamW at the learning rate d·lr, with the sums of Prodigy taken along the way of z."""

    options = ProdigyScheduleFreeOptions
    documentation = Documentation(
        summary="Schedule-Free AdamW whose learning rate is found, not tuned.",
        when="neither a learning rate nor a schedule nor the length of the run",
        reference=(
            "Defazio et al., The Road Less Scheduled, arXiv 2405.15682, Algorithm 1, and Mishchenko and Defazio, Prodigy, "
            "arXiv 2306.06101, Algorithm 3"
        ),
        equations="""
            rates   γ = d·lr·min(1, k/warmup_steps), k = 1 first;  w = kʳ·(max γ)^weight_lr_power;  c = w/Σw;  β = betas[0]
            update  g at y = (1-β)·z + β·x;  w_s = (d/d0)·γ
                    v = b2·v + (1-b2)·g²;  u = g/(√(v/(1-b2ᵏ)) + eps)
                    s = b3·s + w_s·g               b3 = beta3, or √b2
                    z = z - γ·(r·u + wd·y);  x = (1-c)·x + c·z
            sums    inner = Σ w_s·g·(x0 - z) with z of before,  s_l1 = Σ r·|s|
            rule    num = b3·num + inner;  d_hat = d_coef·num/s_l1;  d_max = max(d_max, d_hat)
                    d = max(d, d_hat) if d is still d0;  d = min(d_max, d·growth_rate)
        """,
        notes="""
            In w the exponent of k is the option r; elsewhere r is layer_scale. The bound of Prodigy holds along z:
            Σ w·⟨g, z - x*⟩ ≥ 0 for a convex loss, with the w of the average (Theorem 2 of Schedule-Free), which are
            those of the estimate as long as lr is 1 and there is no warm-up; z is farther from x0 than y is, and
            the bound greater. v is that of AdamW, without the factor d² of Prodigy, so that a step is Adam's at d·lr
            whatever d did. [How others combine the two](deviations.md#prodigy-and-schedule-free). Training and evaluation
            need different weights: [train() and eval()](#weights-that-are-evaluated).
        """,
    )

    name = "prodigy_schedule_free"
    fixed_options = ("betas",)
    after = Sums(("inner", "s_l1"), needs="s_l1")

    def scalars(self, options: Options) -> dict[str, Initial]:
        d0 = float(options["d0"])
        return {"d": d0, "d_max": d0, "numerator": 0.0} | super().scalars(options)

    def constants(self, options: Options) -> dict[str, float]:
        average = math.sqrt(options["betas"][1]) if options["beta3"] is None else float(options["beta3"])
        named = {name: float(options[name]) for name in ("d0", "growth_rate", "d_coef")}
        return super().constants(options) | named | {"estimate_beta": average}

    def size(self, scalars: Scalars) -> Tensor:
        return scalars["d"]

    def share(self, options: Options, scalars: Scalars, constants: Mapping[str, float]) -> float:
        return float(options["betas"][0])

    def buffers(self, options: Options) -> dict[str, Buffer]:
        return super().buffers(options) | {
            "exp_avg_sq": Buffer(squares=True),
            "p0": Buffer(init="param", statistic=True, sliced=True),
            "s": Buffer(statistic=True, sliced=True),
        }

    def coefficients(self, options: Options, scalars: Scalars, constants: Mapping[str, float]) -> Coefficients:
        c = self.averaging(options, scalars, constants) | normalization(options, scalars)
        weight = scalars["d"] / constants["d0"] * -c["to_z"]
        return c | {"b3": constants["estimate_beta"], "to_s": weight}

    def update(self, x: Tensor, g: Tensor, buf: Buffers, c: Coefficients, cut: slice | None) -> tuple[Tensor, ...]:
        sums = self._statistics(g, buf, c, cut) if "s" in buf else ()
        self.move(x, decayed(normalized(g, g, buf, c), x, c), buf, c)
        return sums

    def _statistics(self, g: Tensor, buf: Buffers, c: Coefficients, cut: slice | None) -> tuple[Tensor, ...]:
        z = buf["z"]
        if cut is not None:
            z, g = z.reshape(-1)[cut], g.reshape(-1)[cut]
        inner = dot_difference(g, buf["p0"], z) * c["to_s"]
        s = add_(buf["s"].mul_(c["b3"]), g, c["to_s"])
        return inner, total_abs(s) * c["u"]

    def fold_after(self, sums: Scalars, scalars: Scalars, constants: Mapping[str, Tensor]) -> Scalars:
        numerator = constants["estimate_beta"] * scalars["numerator"] + sums["inner"]
        d_hat = constants["d_coef"] * numerator / sums["s_l1"]
        d, d_max = scalars["d"], torch.maximum(scalars["d_max"], d_hat)
        d = torch.where(d == constants["d0"], torch.maximum(d, d_hat), d)
        return {"d": torch.minimum(d_max, d * constants["growth_rate"]), "d_max": d_max, "numerator": numerator}
