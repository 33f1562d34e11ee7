"""What does an adapter say about a parameter, and about the way a step arrives?"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

Groups = Sequence[dict[str, Any]]
NamedTensors = list[tuple[str | None, Tensor]]


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

    A flat tensor into which a framework has packed several parameters has one Placement for each of them, with
    name: the parameter's, and run: the elements of the flat tensor that are its. None: the tensor is one parameter.
    """

    signature: str
    shards: int
    piece: str
    numel: int
    local: Callable[[Tensor], Tensor] = whole
    gradient: Callable[[Tensor], Tensor | None] = own_gradient
    start: int | None = 0
    name: str | None = None
    run: slice | None = None

    @property
    def is_plain(self) -> bool:
        """Is the parameter itself the local tensor?"""
        return self.local is whole and self.run is None

    def part(self, t: Tensor) -> Tensor:
        """The plain local elements, of a parameter or buffer, that this placement speaks of."""
        return self.local(t) if self.run is None else self.local(t)[self.run]

    def part_gradient(self, p: Tensor) -> Tensor | None:
        """The gradient of those elements; None where there is none."""
        gradient = self.gradient(p)
        return gradient if gradient is None or self.run is None else gradient[self.run]

    def size(self, p: Tensor) -> int:
        """The number of those elements, whether or not they are in memory now."""
        return self.local(p).numel() if self.run is None else self.run.stop - self.run.start

    def is_in_memory(self, p: Tensor) -> bool:
        """Are the elements there? A framework may have swapped them out, and then brings them back for its call of step()."""
        return self.run is None or self.run.stop <= self.local(p).numel()


class Delivery:
    """How a framework brings one step to an optimizer. This one: in one call, with the parameters of the groups.

    in_pieces: step() is called several times for one step, each time with some of the tensors.
    """

    in_pieces = False
    replaces_parameters = False
    """Does the framework give the optimizer tensors of its own, made from the model's parameters?"""

    def is_over(self) -> bool:
        """Is what brought the steps gone?"""
        return False

    def tensors(self, groups: Groups) -> list[NamedTensors]:
        """For each group, (name or None, tensor) of all that a step moves, also of what the present call does not show."""
        named = []
        for group in groups:
            names = group.get("param_names") or ()
            if len(names) != len(group["params"]):  # none were given, or parameters were added without
                names = [None] * len(group["params"])
            named.append(list(zip(names, group["params"], strict=True)))
        return named

    def params(self, groups: Groups) -> list[Sequence[Tensor]]:
        """`tensors` without the names."""
        return [group["params"] for group in groups]

    def starting(self) -> bool:
        """Is the framework still setting up? It then calls step() with zero gradients, and nothing may move."""
        return False

    def refuse_deferral(self) -> str | None:
        """Why a step cannot be carried out after its last piece has arrived; None where it can."""
        return None

    def publish(self) -> None:
        """Copy all of the optimizer's tensors to the model's, for a step that came to the optimizer's tensors late."""
