"""Which frameworks' parameters are recognised? One file each; a framework here knows no method."""

from collections.abc import Callable, Sequence

from torch import Tensor
from torch.optim import Optimizer

from ..integrations import accelerate
from ..integrations.deepspeed import unsupported, zero
from . import dtensor, fsdp1, replicated
from .shard import Delivery, LocalShard

ADAPTERS: tuple[Callable[[Sequence[Tensor]], Sequence[LocalShard | list[LocalShard] | None]], ...] = (
    dtensor.place,
    fsdp1.place,
    zero.place,
    replicated.place,
)
"""Each takes parameters and returns, for each, where it lives, or None when it is not this framework's.

A list of placements: the tensor holds several parameters.
"""

DELIVERIES: tuple[Callable[[Optimizer], Delivery | None], ...] = (zero.deliver,)
"""Each returns how its framework brings a step to this optimizer, or None when it has not got it."""


def delivery(optimizer: Optimizer) -> Delivery:
    """How a step arrives at this optimizer: what a framework says that holds it, else in one call."""
    return next((found for ask in DELIVERIES if (found := ask(optimizer)) is not None), Delivery())


def check_builder() -> None:
    """Raise ValueError when a framework that is building an optimizer just now is told to do what cannot work with it."""
    unsupported.refuse_builder()
    accelerate.refuse_builder()


def refuse(params: Sequence[Tensor]) -> None:
    """Raise ValueError for what cannot work with these parameters, before this rank waits for any other."""
    fsdp1.refuse_in_backward(params)


__all__ = ["ADAPTERS", "DELIVERIES", "Delivery", "LocalShard", "check_builder", "delivery", "refuse"]
