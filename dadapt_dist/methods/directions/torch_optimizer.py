"""Any torch optimizer as a direction: its step x' = x - u, taken on a copy of the weights, gives u."""

from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from ..base import Buffer, Buffers, Coefficients, Options
from .base import Direction

UPDATE = "u"
"""The buffer in which the base optimizer takes its step, and which then holds u."""


class TorchDirection(Direction):
    """The step of a torch optimizer, the base, as the direction of a method.

    In every step the base takes one of its own, at the weights as they are, on a copy of them in float32 or wider: neither
    weights nor gradients of the model are touched by it. u is what it has taken off, so it contains the base's learning rate,
    decay and momentum. It sees gradients as the method does: unscaled, with the sign of `maximize`, elements that are not
    finite as 0. Its state is saved with the method's, under "direction.<name>", but not its options, which the factory sets.

    Args:
        factory: makes the base from a list of parameter groups (dicts with "params", one for each group of the method's
            optimizer, in order), such as `lambda groups: torch.optim.AdamW(groups, lr=1.0)`.

    Raises:
        TypeError: factory cannot be called.

    Notes:
        The base must go by gradients alone (no closure). Where parameters are sharded it sees DTensors, or the rank's flat shard
        under FSDP1: an elementwise base gives what it would give in one process, and one that looks at whole matrices or norms
        has to know DTensors itself. A step that comes in pieces (ZeRO) is refused. Under a GradScaler the step waits
        for the device, since the base cannot take half a step.

    Example:
        >>> import torch
        >>> from dadapt_dist.methods.directions import TorchDirection
        >>> direction = TorchDirection(lambda groups: torch.optim.AdamW(groups, lr=1.0))
    """

    read_only = (UPDATE,)

    def __init__(self, factory: Callable[[list[dict[str, Any]]], Optimizer]) -> None:
        if not callable(factory):
            raise TypeError(
                f"factory={factory!r} must be a function that makes a torch optimizer from parameter groups, such as "
                "lambda groups: torch.optim.AdamW(groups, lr=1.0)"
            )
        self.factory = factory

    def buffers(self, options: Options) -> dict[str, Buffer]:
        return {UPDATE: Buffer(transient=True)}

    def update(self, x: Tensor, g: Tensor, buf: Buffers, c: Coefficients) -> Tensor:
        return buf[UPDATE]

    def multiplied(self, x: Tensor, buf: Buffers, c: Coefficients) -> tuple[Tensor, ...]:
        return (buf[UPDATE],)
