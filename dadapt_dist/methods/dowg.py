"""DoWG: distance over weighted gradients (Khaled, Mishchenko & Jin, arXiv 2305.16284, Algorithm 1; released in rka97/dowg)."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ..options.fields import D0, EPS, LR, WEIGHT_DECAY, MethodOptions
from .base import Documentation, Initial, Options, Scalars, Sums
from .distance import DistanceMethod
from .weight_average import AVERAGE


@dataclass(frozen=True)
class DoWGOptions(MethodOptions):
    """Options of `DoWG`."""

    lr: float = LR(1.0)
    d0: float = D0(1e-2, doc="first distance; the released eps is its square, and eps")
    eps: float = EPS(1e-4, doc="added to √v in the denominator, for numerical stability")
    weight_decay: float = WEIGHT_DECAY(0.0, doc="decay, added to the gradient as weight_decay·x")
    average: float | None = AVERAGE


class DoWGMethod(DistanceMethod):
    """SGD with the step size d²/√v; d is the paper's r̄."""

    options = DoWGOptions
    documentation = Documentation(
        summary="SGD whose step size is distance over gradients that are weighted by it.",
        when="convex and small problems, for which DoG is slow; not deep networks from scratch",
        reference="Khaled, Mishchenko and Jin, DoWG Unleashed, arXiv 2305.16284, Algorithm 1",
        equations="""
            before  d = max(d, ‖x - x0‖);  v = v + d²·‖g‖²
            update  x = x - r·lr·d²/(√v + eps)·g
            average as of DoG
        """,
        notes="""
            Early gradients, which come with a small d, weigh less than in DoG, so the steps are longer: faster where
            DoG is too careful, and too long where gradients are noisy. Both norms are those of the very step, as of DoG.
        """,
    )

    name = "dowg"
    before = Sums(("dist_sq", "g_sq"), needs="g_sq")

    def scalars(self, options: Options) -> dict[str, Initial]:
        return {"d": float(options["d0"]), "weighted_sum": 0.0} | self.average_scalars(options)

    def constants(self, options: Options) -> dict[str, float]:
        return {"d0": float(options["d0"])}

    def fold_before(self, sums: Scalars, scalars: Scalars, constants: Mapping[str, Tensor]) -> Scalars:
        d = torch.maximum(scalars["d"], torch.sqrt(sums["dist_sq"]))
        return {"d": d, "weighted_sum": scalars["weighted_sum"] + d.square() * sums["g_sq"]}

    def has_moved(self, scalars: Scalars) -> Tensor:
        return scalars["weighted_sum"] > 0

    def learning_rate(self, options: Options, scalars: Scalars) -> Tensor | float:
        rate = super().learning_rate(options, scalars) * scalars["d"]
        rate = rate / (torch.sqrt(scalars["weighted_sum"]) + options["eps"])
        return torch.where(self.has_moved(scalars), rate, 0.0)
