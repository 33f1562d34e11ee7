"""Find where each parameter lives by asking the adapters in order."""

from collections.abc import Sequence

from torch import Tensor

from ..errors import PlacementError
from .registry import adapters
from .shard import LocalShard


def resolve(params: Sequence[Tensor]) -> list[list[LocalShard]]:
    """Ask the adapters, in order, where each parameter lives; raise PlacementError for one that cannot be placed.

    A flat tensor that a framework has packed has a placement for each parameter in it, others have one.
    """
    found: dict[int, list[LocalShard]] = {}
    for adapter in adapters:
        rest = [p for p in params if id(p) not in found]
        try:
            placements = adapter.place(rest)
        except ValueError as error:
            raise PlacementError(str(error)) from error
        for p, placement in zip(rest, placements, strict=True):
            if placement is not None:
                found[id(p)] = [placement] if isinstance(placement, LocalShard) else placement
    return [found[id(p)] for p in params]
