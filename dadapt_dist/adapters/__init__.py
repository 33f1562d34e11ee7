"""Which frameworks' parameters are recognised? One file each; a framework here knows no method."""

from collections.abc import Callable, Sequence

from torch import Tensor

from . import dtensor, fsdp1, plain
from .base import Placement

ADAPTERS: tuple[Callable[[Sequence[Tensor]], list[Placement | None]], ...] = (dtensor.place, fsdp1.place, plain.place)
"""Each takes parameters and returns, for each, where it lives, or None when it is not this framework's."""

__all__ = ["ADAPTERS", "Placement"]
