"""DoG: distance over gradients (Ivgi, Hinder & Carmon, arXiv 2302.12022, equations 1 and 2; released as dog-optimizer)."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ..options.fields import EPS, LR, WEIGHT_DECAY, MethodOptions, is_positive, number, option
from .base import Buffer, Buffers, Coefficients, Documentation, Initial, Method, Options, Scalars, Sums
from .ops import add_, total


@dataclass(frozen=True)
class DoGOptions(MethodOptions):
    """Options of `DoG`."""

    lr: float = LR(1.0)
    reps_rel: float = option(
        1e-6,
        number,
        is_positive,
        "a number > 0",
        "use the default, {usual}: d grows from there by itself",
        "first distance, relative to 1 + ‖x0‖; 1e-4 for networks with BatchNorm",
        of_estimate=True,
    )
    eps: float = EPS(1e-8, doc="added to G under the root, for numerical stability")
    weight_decay: float = WEIGHT_DECAY(0.0, doc="decay, added to the gradient as weight_decay·x")


class DoGMethod(Method):
    """SGD with the step size d/√G; d is the paper's r̄."""

    options = DoGOptions
    documentation = Documentation(
        summary="SGD whose step size is distance over gradients.",
        when="fine-tuning with SGD, averaging the weights",
        reference="Ivgi, Hinder and Carmon, DoG is SGD's Best Friend, arXiv 2302.12022, equations 1 and 2",
        equations="""
            start   d = reps_rel·(1 + ‖x0‖)
            before  d = max(d, ‖x - x0‖);  G = G + ‖g‖²
            update  x = x - r·lr·d/√(G + eps)·g
        """,
        notes="""
            Both norms are those of the very step: one blocking reduce a step, or, with before="lagged", those of
            the step before, hidden. It is at its best with an average of the weights.
        """,
    )

    name = "dog"
    start = Sums(("x_sq",))
    before = Sums(("dist_sq", "g_sq"), needs="g_sq")

    def scalars(self, options: Options) -> dict[str, Initial]:
        return {"d": float(options["reps_rel"]), "g_sq_sum": 0.0, "given_d": 0.0}

    def constants(self, options: Options) -> dict[str, float]:
        return {"reps_rel": float(options["reps_rel"])}

    def buffers(self, options: Options) -> dict[str, Buffer]:
        return {"x0": Buffer(init="param", statistic=True)}

    def coupled_decay(self, options: Options) -> float:
        return float(options["weight_decay"])

    def measure_start(self, x: Tensor) -> tuple[Tensor, ...]:
        return (total(x.square()),)

    def fold_start(self, sums: Scalars, scalars: Scalars, constants: Mapping[str, Tensor]) -> Scalars:
        found = constants["reps_rel"] * (1 + torch.sqrt(sums["x_sq"]))
        return {"d": torch.where(scalars["given_d"] > 0, scalars["given_d"], found)}

    def measure_before(self, x: Tensor, g: Tensor, buf: Buffers, c: Coefficients) -> tuple[Tensor, ...]:
        return total((x - buf["x0"]).square()), total(g.square())

    def fold_before(self, sums: Scalars, scalars: Scalars, constants: Mapping[str, Tensor]) -> Scalars:
        d = torch.maximum(scalars["d"], torch.sqrt(sums["dist_sq"]))
        return {"d": d, "g_sq_sum": scalars["g_sq_sum"] + sums["g_sq"]}

    def learning_rate(self, options: Options, scalars: Scalars) -> Tensor | float:
        known = scalars["g_sq_sum"] > 0  # not before the first gradient
        rate = super().learning_rate(options, scalars) / torch.sqrt(scalars["g_sq_sum"] + options["eps"])
        return torch.where(known, rate, 0.0)

    def coefficients(self, options: Options, scalars: Scalars, constants: Mapping[str, float]) -> Coefficients:
        return {"rate": self.learning_rate(options, scalars)}

    def update(self, x: Tensor, g: Tensor, buf: Buffers, c: Coefficients, cut: slice | None) -> tuple[Tensor, ...]:
        add_(x, g, -c["rate"])
        return ()

    def moved(
        self, d: float, scalars: Mapping[str, float], sums: Mapping[str, float] | None, constants: Mapping[str, float]
    ) -> dict[str, float]:
        if d < scalars["d"] and scalars["k"] > 0:
            raise ValueError(
                f"d={d!r} is below {scalars['d']!r}, the largest distance from the first weights so far, to which d of dog "
                "returns in its next step. Lower lr instead, which multiplies it."
            )
        return {"d": d} if scalars["k"] > 0 else {"d": d, "given_d": d}  # which the start leaves as it is
