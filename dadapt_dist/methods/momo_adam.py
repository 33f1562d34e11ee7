"""MoMo-Adam: Adam with a step size from a model of the loss (Schaipp et al., arXiv 2305.07583; released as momo-opt)."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from ..options.fields import BETAS, EPS, LR, WEIGHT_DECAY, MethodOptions
from .adam_metric import SQUARES, advanced, foreseen, metric_coefficients
from .base import Buffer, Buffers, Coefficients, Documentation, Options, Scalars
from .momo import MoMoMethod
from .ngn import CAP, LOWER_BOUND, SCHEDULED
from .ops import add_ratio_


@dataclass(frozen=True)
class MoMoAdamOptions(MethodOptions):
    """Options of `MoMoAdam`."""

    lr: float = LR(1.0, cure=SCHEDULED, doc="multiplies cap. Leave it at 1.0; a schedule may shape it")
    cap: float = CAP(1e-2)
    betas: tuple[float, float] = BETAS(
        (0.9, 0.999), "averaging constants of gradient and loss, and of squared gradients"
    )
    eps: float = EPS(1e-8)
    weight_decay: float = WEIGHT_DECAY(0.0, doc="decay, by which a step divides the parameters: 1 + weight_decay·c")
    lb: float = LOWER_BOUND(0.0)


class MoMoAdamMethod(MoMoMethod):
    """MoMo in Adam's metric, with bias correction."""

    options = MoMoAdamOptions
    documentation = Documentation(
        summary="Adam whose step size follows from a model of the loss.",
        when="Adam with a step size that is rather too large, which the loss then bounds; needs the loss in every step",
        reference="Schaipp, Ohana, Eickenberg, Defazio and Gower, MoMo, arXiv 2305.07583, Algorithms 2 and 4",
        equations="""
            before  m' = b1·m + (1-b1)·g;  v' = b2·v + (1-b2)·g²;  c = r·lr·cap
                    m̂ = m'/(1-b1^t);  D = √(v'/(1-b2^t)) + eps
                    norm = Σ c/(1 + wd·c)·m̂²/D;  drop = Σ wd·c/(1 + wd·c)·m̂·x
                    w = (1-b1)/(1-b1^k);  h = (1-w)·model + w·f
                    share = min(1, max(0, h - drop - lb)/norm);  model = h - drop - share·norm
            update  m = m';  v = v';  x = (x - c·share·m̂/D)/(1 + wd·c)
        """,
        notes="""
            As [MoMo](#momo), with the averages corrected for their beginning at 0: t counts steps, k those that had a loss.
            cap is the largest step size: a cap that is too large does less harm than to Adam, one that is too small the same.
        """,
    )

    name = "momo_adam"
    polynomial_before = False  # D has the root of g²
    estimate_options = ("betas", "lb")

    def buffers(self, options: Options) -> dict[str, Buffer]:
        return super().buffers(options) | {SQUARES: Buffer(squares=True)}

    def coefficients(self, options: Options, scalars: Scalars, constants: Mapping[str, float]) -> Coefficients:
        return super().coefficients(options, scalars, constants) | metric_coefficients(options, scalars)

    def along(self, m: Tensor, g: Tensor, buf: Buffers, c: Coefficients) -> Tensor:
        return m / foreseen(g, buf, c)

    def go(self, x: Tensor, m: Tensor, g: Tensor, buf: Buffers, c: Coefficients) -> None:
        add_ratio_(x, m, advanced(g, buf, c), -c["rate"] * c["m_hat"])
