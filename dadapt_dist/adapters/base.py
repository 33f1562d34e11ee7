"""What does an adapter say about a parameter?"""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor


def whole(t: Tensor) -> Tensor:
    """The local tensor of one that is not distributed: itself."""
    return t


def own_gradient(p: Tensor) -> Tensor | None:
    """The gradient of a parameter that is not distributed."""
    return p.grad


@dataclass(frozen=True, kw_only=True)
class Placement:
    """Where the elements of one parameter live.

    signature: equal on all ranks that hold some piece of the same tensor (shape, kind of sharding; no ranks).
    shards: number of distinct pieces. piece: which one this rank holds, the same text on ranks with the same elements.
    numel: elements of the whole tensor, all pieces together. local: the plain tensor of a parameter or buffer on this
    rank (it may have 0 elements). gradient: the plain local gradient, placed like the parameter. start: index, in the
    flattened whole tensor, of the first local element when the local piece is one contiguous run; None when it is not.
    """

    signature: str
    shards: int
    piece: str
    numel: int
    local: Callable[[Tensor], Tensor] = whole
    gradient: Callable[[Tensor], Tensor | None] = own_gradient
    start: int | None = 0
