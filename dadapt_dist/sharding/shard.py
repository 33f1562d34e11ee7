"""The elements of one parameter that this rank holds."""

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
class LocalShard:
    """The elements of one parameter that this rank holds.

    tensor_key: equal on all ranks that hold some shard of the same tensor (shape, kind of sharding; no ranks).
    num_shards: number of distinct shards. shard_id: which one this rank holds, the same text on ranks with the same elements.
    global_numel: elements of the whole tensor, all shards together. local: the plain tensor of a parameter or buffer on this
    rank (it may have 0 elements). gradient: the plain local gradient, placed like the parameter. global_offset: index, in
    the flattened whole tensor, of the first local element where the local elements follow each other; None where they do not.

    A flat tensor into which a framework has packed several parameters has one LocalShard for each of them, with
    fqn: the parameter's name, and flat_slice: the elements of the flat tensor that are its. None: the tensor is one parameter.
    packed: of a flat tensor that has one LocalShard all the same, (name, start, stop) for each parameter in it: the local
    elements that are its.
    """

    tensor_key: str
    num_shards: int
    shard_id: str
    global_numel: int
    local: Callable[[Tensor], Tensor] = whole
    gradient: Callable[[Tensor], Tensor | None] = own_gradient
    global_offset: int | None = 0
    fqn: str | None = None
    flat_slice: slice | None = None
    packed: tuple[tuple[str, int, int], ...] = ()

    @property
    def is_plain(self) -> bool:
        """Whether the parameter itself is the local tensor."""
        return self.local is whole and self.flat_slice is None

    @property
    def packs_several(self) -> bool:
        """Whether one LocalShard stands for several parameters."""
        return len(self.packed) > 1

    def part(self, t: Tensor) -> Tensor:
        """The plain local elements, of a parameter or buffer, that this placement speaks of."""
        return self.local(t) if self.flat_slice is None else self.local(t)[self.flat_slice]

    def unpadded(self, t: Tensor) -> list[Tensor]:
        """Those elements, one by one of the parameters in them: without what a framework has padded them with."""
        part = self.part(t)
        return [part[start:stop] for _, start, stop in self.packed] if self.packed else [part]

    def part_gradient(self, p: Tensor) -> Tensor | None:
        """The gradient of those elements; None where there is none."""
        gradient = self.gradient(p)
        return gradient if gradient is None or self.flat_slice is None else gradient[self.flat_slice]

    def size(self, p: Tensor) -> int:
        """The number of those elements, whether or not they are in memory now."""
        return self.local(p).numel() if self.flat_slice is None else self.flat_slice.stop - self.flat_slice.start

    def is_in_memory(self, p: Tensor) -> bool:
        """Return whether the elements are in memory; a framework that swapped them out brings them back for its step()."""
        return self.flat_slice is None or self.flat_slice.stop <= self.local(p).numel()
