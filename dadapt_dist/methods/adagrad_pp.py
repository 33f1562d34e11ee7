"""AdaGrad++: AdaGrad whose step is the distance gone so far (Tao, Yuan, Zhou, Cao & Gu, arXiv 2412.19444, Algorithm 1)."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from ..options.fields import D0, EPS, LR, WEIGHT_DECAY, MethodOptions
from .base import Buffer, Buffers, Coefficients, Documentation, Options, Scalars
from .farthest import FarthestMethod
from .ops import add_product_, add_ratio_, root


@dataclass(frozen=True)
class AdaGradPPOptions(MethodOptions):
    """Options of `AdaGradPP`."""

    lr: float = LR(1.0)
    eps: float = EPS(1e-8)
    weight_decay: float = WEIGHT_DECAY(0.0, doc="decay, added to the gradient as weight_decay·x")
    d0: float = D0(1e-6, doc="first step length, until the weights have gone farther than that")


class AdaGradPPMethod(FarthestMethod):
    """AdaGrad with the step size d; d is the paper's η."""

    options = AdaGradPPOptions
    documentation = Documentation(
        summary="AdaGrad whose step size is the distance gone so far, AdaGrad++.",
        when="convex and sparse-featured models that AdaGrad trains; sound but slow for networks",
        reference="Tao, Yuan, Zhou, Cao and Gu, Towards Simple and Provable Parameter-Free Adaptive Gradient Methods, "
        "arXiv 2412.19444, Algorithm 1",
        equations="""
            start   p = Σ 1
            update  v = v + g²;  x = x - r·d·lr·g/(√v + eps)
            sums    dist_sq = Σ (x - x0)² with x of after the step
            rule    d = max(d, √(dist_sq/p))
        """,
        notes="""
            d is a distance for each element, a root mean square, so it has the size of Adagrad's learning rate. p is the number
            of elements that train, of all ranks, as the run begins. Like all methods that go by the distance, it does best
            from a start that is not the solution already, such as a model that was trained for the same task: d can only
            grow. AdaGrad's step shrinks as 1/√k by itself: leave lr constant. For networks its authors found it
            behind Adam and Adam++, so prefer Prodigy there.
        """,
    )

    name = "adagrad_pp"

    def own_buffers(self, options: Options) -> dict[str, Buffer]:
        return {"sum_sq": Buffer(squares=True)}

    def coupled_decay(self, options: Options) -> float:
        return float(options["weight_decay"])

    def coefficients(self, options: Options, scalars: Scalars, constants: Mapping[str, float]) -> Coefficients:
        return {"rate": scalars["d"] * options["lr"] * options["layer_scale"], "eps": options["eps"]}

    def move(self, x: Tensor, g: Tensor, buf: Buffers, c: Coefficients) -> None:
        v = add_product_(buf["sum_sq"], g, g, 1.0)
        add_ratio_(x, g, root(v, c["eps"]), -c["rate"])
