"""Lion's direction (Chen et al., arXiv 2302.06675, Algorithm 2)."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ...options.fields import BETAS
from ..base import Buffer, Buffers, Coefficients, Options, Scalars
from ..ops import add_
from .base import DecayOptions, Direction, decay_of, decayed


@dataclass(frozen=True)
class LionOptions(DecayOptions):
    """Options of `Lion`."""

    betas: tuple[float, float] = BETAS((0.9, 0.99), "averaging constants of the update and of the momentum")


class Lion(Direction):
    """u = sign(b1·m + (1-b1)·g) + wd·x;  m = b2·m + (1-b2)·g afterwards."""

    options = LionOptions

    def buffers(self, options: Options) -> dict[str, Buffer]:
        return {"exp_avg": Buffer()}

    def coefficients(self, options: Options, scalars: Scalars) -> Coefficients:
        beta1, beta2 = options["betas"]
        return {"b1": beta1, "to_u": 1 - beta1, "b2": beta2, "to_m": 1 - beta2, "decay": decay_of(options)}

    def update(self, x: Tensor, g: Tensor, buf: Buffers, c: Coefficients) -> Tensor:
        u = torch.mul(buf["exp_avg"], c["b1"])
        u = add_(u, g, c["to_u"]).sign_()
        add_(buf["exp_avg"].mul_(c["b2"]), g, c["to_m"])
        return decayed(u, x, c["decay"])
