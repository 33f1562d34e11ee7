"""Numbers the tensors of the model, the same on all ranks, and says which elements of a local tensor are whose."""

from collections.abc import Sequence

from torch import Tensor

from ..comm.communicator import ShardLayout
from .replicas import Item
from .shard import LocalShard

Piece = tuple[int, int, int]
"""A tensor's number, and its first and last but one local element, of the whole local tensor."""


def number_tensors(
    items: Sequence[Item], lists: list[int], layout: ShardLayout
) -> tuple[int, dict[Tensor, list[Piece]]]:
    """How many tensors the model has over all ranks, and the pieces of them in each parameter.

    A collective call of all ranks where these have different lists of parameters, or were told of copies by their user. What
    he declares may be slices of any shape, stored as plain tensors: those of one name are one tensor, and without names those
    of one place, where all ranks have equally many.

    Args:
        items: Those of this rank.
        lists: Of each rank, a number that is equal for ranks with one list.
        layout: The ranks.
    """
    declares = layout.world_size > 1 and layout.copies is not None
    alike = not declares or len({*layout.all_gather_object(len(items))}) == 1
    here = str(lists[layout.rank]), "" if alike else f"rank {layout.rank}"
    named = [_keys(item, here[item.copies is not None]) for item in items]
    keys = [key for of_item in named for key, _, _ in of_item]
    if declares or len({*lists}) > 1:
        keys = [key for of_rank in layout.all_gather_object(keys) for key in of_rank]
    numbers = {key: place for place, key in enumerate(dict.fromkeys(keys))}
    pieces: dict[Tensor, list[Piece]] = {}
    for item, of_item in zip(items, named, strict=True):
        pieces.setdefault(item.param, []).extend((numbers[key], start, stop) for key, start, stop in of_item)
    return len(numbers), pieces


def runs_of(place: LocalShard, p: Tensor, pieces: Sequence[Piece]) -> tuple[Piece, ...]:
    """The pieces in the elements that a placement speaks of, counted from the first of these."""
    if place.flat_slice is None:
        return tuple(pieces)
    start, stop = place.flat_slice.start, place.flat_slice.stop
    return tuple((n, first - start, last - start) for n, first, last in pieces if start <= first < last <= stop)


def _keys(item: Item, here: str) -> list[tuple[str, int, int]]:
    """(key, first, last but one local element) of each tensor of the model in an item. here: tells places from others'."""
    place = item.place
    if place.packed:
        return [(f"{item.key}|{name}", start, stop) for name, start, stop in place.packed]
    run = place.flat_slice
    start, stop = (0, place.size(item.param)) if run is None else (run.start, run.stop)
    key = item.key if item.copies is None else item.name or item.position
    return [(key if item.name is not None else f"{here}: {key}", start, stop)]
