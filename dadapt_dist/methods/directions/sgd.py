"""The gradient itself, or its heavy-ball momentum."""

from dataclasses import dataclass

from torch import Tensor

from ...options.fields import MOMENTUM
from ..base import Buffer, Buffers, Coefficients, Options, Scalars
from .base import DecayOptions, Direction, decay_of, decayed


@dataclass(frozen=True)
class SGDOptions(DecayOptions):
    """Options of `SGD`."""

    momentum: float = MOMENTUM(0.0, doc="heavy-ball momentum: m = momentum·m + g; 0 keeps no buffer")


class SGD(Direction):
    """u = m + wd·x with m = momentum·m + g; without momentum m is g (Polyak 1964)."""

    options = SGDOptions

    def buffers(self, options: Options) -> dict[str, Buffer]:
        return {"momentum_buffer": Buffer()} if options["momentum"] > 0 else {}

    def coefficients(self, options: Options, scalars: Scalars) -> Coefficients:
        return {"momentum": float(options["momentum"]), "decay": decay_of(options)}

    def update(self, x: Tensor, g: Tensor, buf: Buffers, c: Coefficients) -> Tensor:
        m = buf["momentum_buffer"].mul_(c["momentum"]).add_(g) if "momentum_buffer" in buf else g
        return m if c["decay"] is None else decayed(m.clone(), x, c["decay"])
