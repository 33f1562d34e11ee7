"""DoG: distance over gradients (Ivgi, Hinder & Carmon, arXiv 2302.12022, equations 1 and 2; released as dog-optimizer)."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ..options.fields import EPS, LR, WEIGHT_DECAY, MethodOptions, is_positive, number, option
from .base import Documentation, Initial, Options, Scalars, Sums, Variant
from .distance import DistanceMethod
from .ops import total
from .weight_average import AVERAGE

REFERENCE = "Ivgi, Hinder and Carmon, DoG is SGD's Best Friend, arXiv 2302.12022"


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
    average: float | None = AVERAGE


class DoGMethod(DistanceMethod):
    """SGD with the step size d/√G; d is the paper's r̄."""

    options = DoGOptions
    documentation = Documentation(
        summary="SGD whose step size is distance over gradients.",
        when="fine-tuning with SGD, evaluated at an average of the weights; not from scratch where AdamW is the rule",
        reference=f"{REFERENCE}, equations 1 and 2",
        equations="""
            start   d = reps_rel·(1 + ‖x0‖)
            before  d = max(d, ‖x - x0‖);  G = G + ‖g‖²
            update  x = x - r·lr·d/√(G + eps)·g
            average x̄ = x̄ + (1 + average)/(t + average)·(x - x̄),  t = 1, 2, ... the steps in which something moved
        """,
        notes="""
            Both norms are those of the very step: one blocking reduce a step, or, with before="lagged", those of
            the step before, hidden. The steps fall only as 1/√t, so the last weights are noisy: the paper calls an average
            crucial. With average=8.0 it is kept as a buffer, and eval() puts it into the model; or let lr decay to 0.
        """,
    )
    variants = (
        Variant(
            name="LDoG",
            estimates="per_tensor",
            documentation=Documentation(
                summary="DoG with a distance and a sum of gradients for each tensor: a step size of its own.",
                when="as DoG, where layers differ in scale, such as transformers; needs tensors that are not packed",
                reference=f"{REFERENCE}, L-DoG",
                equations="""
                    DoG for each tensor of the model, as if it had an optimizer to itself
                """,
                notes="""
                    The class is DoG(estimates="per_tensor"), and its checkpoints are those of DoG so built. What packs tensors
                    into flat ones (FSDP1 without use_orig_params, ZeRO) and pipelines raise. An average has one t for all
                    tensors.
                """,
            ),
        ),
    )

    name = "dog"
    start = Sums(("x_sq",))
    before = Sums(("dist_sq", "g_sq"), needs="g_sq")

    def scalars(self, options: Options) -> dict[str, Initial]:
        return {"d": float(options["reps_rel"]), "g_sq_sum": 0.0, "given_d": 0.0} | self.average_scalars(options)

    def constants(self, options: Options) -> dict[str, float]:
        return {"reps_rel": float(options["reps_rel"])}

    def measure_start(self, x: Tensor) -> tuple[Tensor, ...]:
        return (total(x.square()),)

    def fold_start(self, sums: Scalars, scalars: Scalars, constants: Mapping[str, Tensor]) -> Scalars:
        found = constants["reps_rel"] * (1 + torch.sqrt(sums["x_sq"]))
        return {"d": torch.where(scalars["given_d"] > 0, scalars["given_d"], found)}

    def fold_before(self, sums: Scalars, scalars: Scalars, constants: Mapping[str, Tensor]) -> Scalars:
        d = torch.maximum(scalars["d"], torch.sqrt(sums["dist_sq"]))
        return {"d": d, "g_sq_sum": scalars["g_sq_sum"] + sums["g_sq"]}

    def has_moved(self, scalars: Scalars) -> Tensor:
        return scalars["g_sq_sum"] > 0

    def learning_rate(self, options: Options, scalars: Scalars) -> Tensor | float:
        known = self.has_moved(scalars)  # not before the first gradient
        rate = super().learning_rate(options, scalars) / torch.sqrt(scalars["g_sq_sum"] + options["eps"])
        return torch.where(known, rate, 0.0)

    def moved(
        self, d: float, scalars: Mapping[str, float], sums: Mapping[str, float] | None, constants: Mapping[str, float]
    ) -> dict[str, float]:
        changed = super().moved(d, scalars, sums, constants)
        return changed if scalars["k"] > 0 else changed | {"given_d": d}  # which the start leaves as it is
