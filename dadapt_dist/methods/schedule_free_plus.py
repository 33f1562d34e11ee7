"""ScheduleFree+: Schedule-Free AdamW whose learning rate is Polyak's (Defazio, arXiv 2605.19095), with a bound on its steps."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..options.fields import (
    BETAS,
    EPS,
    LR,
    WEIGHT_DECAY,
    MethodOptions,
    integer,
    is_fraction,
    number,
    option,
)
from .base import Buffer, Buffers, Coefficients, Documentation, Initial, Options, Scalars, Sums
from .ops import add_, dot_difference, total_abs
from .schedule_free import KEEP_AVERAGE, LEAST, WARMUP_STEPS, WEIGHT_LR_POWER, R, ScheduleFree, is_share
from .schedule_free_adamw import decayed, normalization, normalized

SHARE = f"a number in [{LEAST}, 1)"


@dataclass(frozen=True)
class ScheduleFreePlusOptions(MethodOptions):
    """Options of `ScheduleFreePlus`."""

    lr: float = LR(
        1.0,
        cure="leave lr=1.0: it multiplies Polyak's learning rate",
        doc="multiplies Polyak's learning rate; a group with lr 0 does not move",
    )
    betas: tuple[float, float] = BETAS((0.9, 0.95), "averaging constants of the gradient and of its square")
    sf_beta: float = option(
        0.9,
        number,
        is_share,
        SHARE,
        "use the default, {usual}; at 0 there would be no average to evaluate",
        "β, the part of the average x in y, the point at which gradients are taken",
        of_estimate=True,
    )
    sf_beta_max: float = option(
        0.965, number, is_share, SHARE, "use the default, {usual}", "β after sf_beta_steps", of_estimate=True
    )
    sf_beta_steps: int = option(
        0,
        integer,
        lambda value: 0 <= value <= 2**53,
        "an integer >= 0",
        "0 leaves β at sf_beta, and the length of the run is usual otherwise",
        "steps over which 1 - β goes from 1 - sf_beta to 1 - sf_beta_max, evenly in its logarithm",
        of_estimate=True,
    )
    eps: float = EPS(1e-8)
    weight_decay: float = WEIGHT_DECAY(
        0.0, doc="decay of the parameters, by weight_decay·α²·y a step; 20 to 50 are usual"
    )
    norm_beta: float = option(
        0.0,
        number,
        is_fraction,
        "a number in [0, 1)",
        "0 is the paper's, and 0.9 steadies the steps",
        "averaging constant of the norm of the gradient",
        of_estimate=True,
    )
    bound: float = option(
        1.0,
        number,
        lambda value: value >= 1,
        "a number >= 1, or inf",
        "1 is the safe one, 2 allows longer steps, and inf is the paper's, which diverges on small noisy problems",
        "largest multiple of the loss in the numerator of Polyak's learning rate",
        of_estimate=True,
    )
    warmup_steps: int = WARMUP_STEPS()
    average_from: int = option(
        0,
        integer,
        lambda value: 0 <= value <= 2**53,
        "an integer >= 0",
        "0 averages from the start, and once or twice the warm-up is usual",
        "steps before the average begins; x is z until then",
        of_estimate=True,
    )
    r: float = R()
    weight_lr_power: float = WEIGHT_LR_POWER()
    keep_average: bool = KEEP_AVERAGE()


class ScheduleFreePlusMethod(ScheduleFree):
    """AdamW on z, with gradients at y and Polyak's learning rate; the scalar rate is that without lr and warm-up."""

    options = ScheduleFreePlusOptions
    documentation = Documentation(
        summary="Schedule-Free AdamW with Polyak's learning rate, from the loss.",
        when="no learning rate and no schedule, where the loss comes near its least value; one blocking reduce a step",
        reference="Defazio, ScheduleFree+, arXiv 2605.19095; released in the repository of schedule_free",
        equations="""
            before  f the loss;  n = norm_beta·n + (1-norm_beta)·√(π/2)·‖g‖₁;  n̂ = n/(1-norm_betaᵏ), k = 1 first
                    rate = max(0, min(f + β·⟨g, z - x⟩, bound·f))/n̂
            rates   α = lr·min(1, k/warmup_steps)·rate;  w = kʳ·(max α)^weight_lr_power;  c = w/Σw, 1 up to average_from
            update  g at y = (1-β)·z + β·x, the β of the step before
                    m = b1·m + (1-b1)·g;  v = b2·v + (1-b2)·g²;  u = (m/(1-b1ᵏ))/(√(v/(1-b2ᵏ)) + eps)
                    z = z - α·(r·u + α·wd·y);  x = (1-c)·x + c·z
        """,
        notes="""
            In w the exponent of k is the option r; elsewhere r is layer_scale. The bound is not in the paper: without it
            (bound=inf) steps feed on themselves where the loss cannot come near 0, for a step of z increases ⟨g, z - x⟩ of
            the next ones. [Measured](deviations.md#the-bound-of-schedulefree). The least value of the loss is taken to be 0: give
            step(loss=loss - least) where it is another, and 0.5 or less for lr where it is not known. Give the loss as
            [methods that use it](#methods-that-use-the-loss) ask for. Training and evaluation need different weights:
            [train() and eval()](#weights-that-are-evaluated).
        """,
    )

    name = "schedule_free_plus"
    fixed_options = ("sf_beta", "sf_beta_max", "sf_beta_steps")
    before = Sums(("g_l1", "inner"), needs="g_l1", loss=True)
    polynomial_before = True

    def scalars(self, options: Options) -> dict[str, Initial]:
        return {"rate": 0.0, "norm": 0.0} | super().scalars(options)

    def constants(self, options: Options) -> dict[str, float]:
        names = ("sf_beta", "sf_beta_steps", "norm_beta", "bound", "average_from")
        ratio, steps = (1 - options["sf_beta_max"]) / (1 - options["sf_beta"]), options["sf_beta_steps"]
        narrows = math.log(ratio) / steps if steps > 0 else 0.0
        return super().constants(options) | {name: float(options[name]) for name in names} | {"narrows": narrows}

    def buffers(self, options: Options) -> dict[str, Buffer]:
        return super().buffers(options) | {"exp_avg": Buffer(), "exp_avg_sq": Buffer(squares=True)}

    def size(self, scalars: Scalars) -> Tensor:
        return scalars["rate"]

    def share(self, options: Options, scalars: Scalars, constants: Mapping[str, float]) -> Tensor:
        return _share(constants, scalars["updates"])

    def last_share(self, options: Options, scalars: Scalars, constants: Mapping[str, float]) -> Tensor:
        return _share(constants, (scalars["updates"] - 1).clamp(min=0.0))

    def weighed(self, scalars: Scalars, constants: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
        largest, weight = super().weighed(scalars, constants)
        return largest, torch.where(scalars["updates"] < constants["average_from"], 0.0, weight)

    def part(self, scalars: Scalars, constants: Mapping[str, Any]) -> Tensor:
        return torch.where(scalars["updates"] < constants["average_from"], 1.0, super().part(scalars, constants))

    def coefficients(self, options: Options, scalars: Scalars, constants: Mapping[str, float]) -> Coefficients:
        c = self.averaging(options, scalars, constants) | normalization(options, scalars)
        beta1 = options["betas"][0]
        c |= {"b1": beta1, "to_m": 1 - beta1, "u": c["u"] / (1 - beta1 ** (scalars["updates"] + 1))}
        c["away"] = 1 / self.last_share(options, scalars, constants)
        return c if c["decay"] is None else c | {"decay": c["decay"] * -c["to_z"]}

    def measure_before(self, x: Tensor, g: Tensor, buf: Buffers, c: Coefficients) -> tuple[Tensor, ...]:
        inner = (
            dot_difference(g, buf["z"], buf["average"])
            if "average" in buf
            else c["away"] * dot_difference(g, buf["z"], x)
        )
        return total_abs(g), inner

    def fold_before(self, sums: Scalars, scalars: Scalars, constants: Mapping[str, Tensor]) -> Scalars:
        beta = constants["norm_beta"]
        norm = beta * scalars["norm"] + (1 - beta) * math.sqrt(math.pi / 2) * sums["g_l1"]
        loss, bound = sums["loss"], constants["bound"]
        most = torch.where(torch.isinf(bound), math.inf, bound * loss)  # inf·0 is NaN
        gap = torch.minimum(loss + _share(constants, scalars["updates"]) * sums["inner"], most)
        rate = gap.clamp(min=0.0) * (1 - beta ** (scalars["k"] + 1)) / norm
        return {"rate": rate, "norm": norm}

    def update(self, x: Tensor, g: Tensor, buf: Buffers, c: Coefficients, cut: slice | None) -> tuple[Tensor, ...]:
        m = add_(buf["exp_avg"].mul_(c["b1"]), g, c["to_m"])
        self.move(x, decayed(normalized(m, g, buf, c), x, c), buf, c)
        return ()


def _share(constants: Mapping[str, Any], updates: Tensor) -> Tensor:
    """β after so many steps."""
    passed = torch.minimum(
        updates, torch.as_tensor(constants["sf_beta_steps"], dtype=torch.float64, device=updates.device)
    )
    share: Tensor = 1 - (1 - constants["sf_beta"]) * torch.exp(constants["narrows"] * passed)
    return share
