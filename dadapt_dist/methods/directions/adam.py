"""Adam's direction (Kingma & Ba, arXiv 1412.6980, Algorithm 1), with decoupled decay (Loshchilov & Hutter, arXiv 1711.05101)."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ...options.fields import BETAS, EPS
from ..base import Buffer, Buffers, Coefficients, Options, Scalars
from ..ops import add_, add_product_
from .base import DecayOptions, Direction, decay_of, decayed


@dataclass(frozen=True)
class AdamOptions(DecayOptions):
    """Options of `Adam`."""

    betas: tuple[float, float] = BETAS((0.9, 0.999), "averaging constants of the gradient and of its square")
    eps: float = EPS(1e-8)


class Adam(Direction):
    """u = m̂/(√v̂ + eps) + wd·x, as in torch's AdamW with lr = 1.

    m = b1·m + (1-b1)·g;  v = b2·v + (1-b2)·g²;  m̂ = m/(1 - b1^t);  v̂ = v/(1 - b2^t), t = 1 in the first step.
    t counts the steps of the estimate in which something could move, for all parameters alike.
    """

    options = AdamOptions

    def buffers(self, options: Options) -> dict[str, Buffer]:
        return {"exp_avg": Buffer(), "exp_avg_sq": Buffer(squares=True)}

    def coefficients(self, options: Options, scalars: Scalars) -> Coefficients:
        (beta1, beta2), t = options["betas"], scalars["updates"] + 1
        return {
            "b1": beta1, "to_m": 1 - beta1, "b2": beta2, "to_v": 1 - beta2,
            "m_hat": 1 / (1 - beta1**t), "root_v_hat": torch.rsqrt(1 - beta2**t),
            "eps": float(options["eps"]), "decay": decay_of(options),
        }  # fmt: skip

    def update(self, x: Tensor, g: Tensor, buf: Buffers, c: Coefficients) -> Tensor:
        m = add_(buf["exp_avg"].mul_(c["b1"]), g, c["to_m"])
        v = add_product_(buf["exp_avg_sq"].mul_(c["b2"]), g, g, c["to_v"])
        u = torch.sqrt(v).mul_(c["root_v_hat"]).add_(c["eps"]).reciprocal_().mul_(m).mul_(c["m_hat"])
        return decayed(u, x, c["decay"])
