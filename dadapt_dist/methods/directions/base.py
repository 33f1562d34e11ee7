"""Interface of directions: the elementwise rule that turns a gradient into an update u, with x_new = x - rate·u."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from ...options.fields import WEIGHT_DECAY
from ..base import Buffer, Buffers, Coefficients, Options, Scalars
from ..ops import add_


@dataclass(frozen=True)
class DirectionOptions:
    """Options that a direction adds to those of the method; each is a field made by `options.fields`."""


@dataclass(frozen=True)
class DecayOptions(DirectionOptions):
    """Decoupled decay, which the directions of this folder have."""

    weight_decay: float = WEIGHT_DECAY(
        0.0, doc="decay of the parameters: weight_decay·x is added to the update that the method scales"
    )


class Direction(ABC):
    """One rule for single elements: tensors and scalars, no ranks, no frameworks, no sums.

    A direction keeps nothing between two calls but its buffers, so that one instance serves any number of optimizers.

    Example:
        >>> import torch
        >>> from dadapt_dist.methods.directions import Lion
        >>> lion = Lion()
        >>> c = lion.coefficients({"betas": (0.9, 0.99), "weight_decay": 0.0}, {})
        >>> lion.update(torch.ones(2), torch.tensor([3.0, -0.5]), {"exp_avg": torch.zeros(2)}, c)
        tensor([ 1., -1.])
    """

    options: ClassVar[type[DirectionOptions]] = DirectionOptions
    """Its options, a frozen dataclass; they become options of the method and stand in its public signature."""
    read_only: ClassVar[tuple[str, ...]] = ()
    """Buffers that `update` never writes."""
    factory: Callable[[Any], Any] | None = None
    """Makes the torch optimizer that the caller runs before the update (`TorchDirection`); None: none is needed."""

    def buffers(self, options: Options) -> dict[str, Buffer]:
        """The buffers of every parameter of a group with these options: neither `statistic` nor `sliced`."""
        return {}

    def coefficients(self, options: Options, scalars: Scalars) -> Coefficients:
        """What `update` multiplies by: numbers and 0-dim tensors on the device of `scalars`, no host sync.

        scalars: those of the estimate; "updates" counts the steps before this one.
        """
        return {}

    @abstractmethod
    def update(self, x: Tensor, g: Tensor, buf: Buffers, c: Coefficients) -> Tensor:
        """Advance its own buffers in place by one step; return u, shaped like x, which may be g or a buffer itself.

        Args:
            x: the parameter, which stays as it is.
            g: its gradient, which stays as it is, in the dtype and shape of x.
            buf: buffers of the direction and of the method.
            c: its `coefficients`.
        """

    def squared(self, g: Tensor, before: Buffers, after: Buffers, c: Coefficients) -> tuple[Tensor, ...]:
        """As `Method.squared`, for what the direction squares beside g, and keeps in no buffer."""
        return ()

    def multiplied(self, x: Tensor, buf: Buffers, c: Coefficients) -> tuple[Tensor, ...]:
        """As `Method.multiplied`: what can make a step with a small gradient overflow where it is large."""
        return ()


def decay_of(options: Options) -> float | None:
    """The decay of a group as a coefficient; None, which costs nothing, where it is 0."""
    return float(options["weight_decay"]) or None


def decayed(u: Tensor, x: Tensor, decay: Tensor | float | None) -> Tensor:
    """u + decay·x, in place: u must be the direction's own."""
    return u if decay is None else add_(u, x, decay)
