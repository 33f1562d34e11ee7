"""Count the ranks that hold the same elements, and verify that all ranks' elements make up the model exactly once.

Runs once, before the first update. Ranks with the same list of parameters form a class (all ranks, in most runs; one class
a pipeline stage). Of a tensor held by H ranks in n distinct pieces there are H/n copies of each piece; a rank then
contributes partial/copies, and one SUM counts every element once. What cannot be read from one parameter is checked:

One all_gather: whether a rank failed, its configuration, its list of parameters, and for each kind of piece that it holds
(all of a tensor, row block 3 of 8, ...) the values held. Ranks with the same list and pieces but other values hold no
copies: they are pipeline stages that look alike, replicas that drifted apart, or slices stored as plain tensors.
Only when there are several classes, one all_gather_object: the list of one rank of each, to find tensors in common.
One all_reduce: Σ local elements/copies must be the elements of the model. Whatever fails is raised on all ranks.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import Parameter

from ..comm.communicator import ShardLayout
from ..errors import PlacementError
from ..options.checks import TRAINABLE
from .dtensor import dtensor_types
from .rank_claims import MAX_OPTIONS, Claims, check_configuration, check_options, digest, padded
from .shard import LocalShard

PIECES = 6 + MAX_OPTIONS  # where in a rank's row its pieces begin
MAX_PIECES = 8  # kinds of pieces that are compared apart; a mesh of three axes has at most 8
NAME_CURE = (
    "If these are different tensors (pipeline stages, experts), give the optimizer named parameters: "
    "Prodigy(model.named_parameters(), ...), with names that differ between stages. If they are slices of one tensor, pass "
    "copies=, a function that gives for a parameter the number of ranks with the same elements. If each rank trains a model "
    "of its own, pass process_group= with the ranks that train together."
)


@dataclass(frozen=True)
class Item:
    """One parameter of this rank: its tensor, name or None, place in the optimizers, and placement.

    copies: declared by the user, or None. proven: its copies were found equal before; they may have drifted by roundings
    since, where ranks compute one gradient each for themselves. before: how many they were then, among the same ranks.
    """

    param: Tensor
    name: str | None
    position: str
    place: LocalShard
    copies: int | None = None
    proven: bool = False
    before: int | None = None

    @property
    def key(self) -> str:
        return f"{self.position if self.name is None else self.name}|{self.place.tensor_key}"


@dataclass(frozen=True)
class Entry:
    """What another rank needs to know of an item."""

    key: str
    named: bool
    shards: int
    numel: int
    piece: str
    checksum: int
    constant: bool


@dataclass(frozen=True)
class Found:
    """What the ranks found out together.

    copies: of each item. classes: of each rank; those of one class have equal options. lists: of each rank; those with equal
    numbers have one list of parameters. is_witnessed: have all ranks the same suspects?
    """

    copies: list[int]
    classes: list[int]
    lists: list[int]
    is_witnessed: bool


def find_copies(items: Sequence[Item], claims: Claims, layout: ShardLayout, device: torch.device) -> "Found":
    """How many ranks hold the same elements, and which of them have to agree on what.

    A collective call of all ranks. device: where the group can communicate.
    Raises PlacementError, on all ranks alike, when the placements do not add up.
    """
    if layout.world_size == 1:
        own = [(item, 1) for item in items if item.copies is None]
        _check_total(sum(i.place.size(i.param) for i, _ in own), sum(i.place.global_numel for i, _ in own), own)
        return Found([1] * len(items), [0], [0], is_witnessed=False)
    open_items = [item for item in items if item.copies is None]
    sums = _checksums(open_items, layout.world_size)
    names = digest(tuple(item.key for item in open_items))
    pieces = _pieces(names, open_items, sums, layout.world_size)
    kind = names if claims.kind is None else claims.kind
    row = [
        0,
        digest(claims.configuration),
        names,
        digest(claims.scalars),
        kind,
        claims.n_suspects,
        *padded(claims.options),
    ]
    row += [number for pair in pieces for number in pair]
    rows = layout.all_gather(torch.tensor(row, dtype=torch.int64, device=device)).tolist()
    _raise_if_any_failed(rows, None, layout)
    check_configuration(rows)
    check_options(rows, list(claims.options))
    _check_values(rows, open_items, layout.world_size)
    holders, expected = _holders(rows, open_items, sums, layout)
    copies = _copies(items, holders, expected, layout, device)
    alike = len({(row[2], row[5]) for row in rows}) == 1  # with other lists, suspects of one place are other tensors
    lists = [row[2] for row in rows]
    return Found(copies, [row[4] for row in rows], lists, is_witnessed=alike and claims.n_suspects > 0)


def _pieces(names: int, items: Sequence[Item], sums: list[int], world_size: int) -> list[tuple[int, int]]:
    """(which tensors in which piece, their values) for each kind of piece that this rank holds, as MAX_PIECES digests.

    Kinds are compared apart: ranks that hold other shards of one tensor may still share another tensor whole.
    """
    kinds: dict[str, list[tuple[int, int]]] = {}
    for index, (item, value) in enumerate(zip(items, sums, strict=True)):
        if _compared(item, world_size):
            kinds.setdefault(item.place.shard_id, []).append((index, value))
    entries = [(piece, kinds[piece]) for piece in sorted(kinds)]
    rest = [(piece, entry) for piece, one in entries[MAX_PIECES - 1 :] for entry in one]
    which_rest = repr([(piece, index) for piece, (index, _) in rest])
    entries = [*entries[: MAX_PIECES - 1], (which_rest, [entry for _, entry in rest])]
    held = [(piece, tuple(i for i, _ in one), tuple(value for _, value in one)) for piece, one in entries]
    pairs = [(digest((names, piece, which)), digest(values)) for piece, which, values in held]
    return [*pairs, *[(0, 0)] * (MAX_PIECES - len(pairs))]


def report_failure(error: Exception, layout: ShardLayout, device: torch.device) -> None:
    """Take part in the exchange of `find_copies` as a rank that could not place its parameters, and raise there."""
    if layout.world_size > 1:
        rows = layout.all_gather(
            torch.tensor([1] + [0] * (PIECES - 1 + 2 * MAX_PIECES), dtype=torch.int64, device=device)
        ).tolist()
        _raise_if_any_failed(rows, error, layout)
    raise error


def _raise_if_any_failed(rows: list[list[int]], error: Exception | None, layout: ShardLayout) -> None:
    """Every rank sees the same rows, so either all raise here or none: no rank waits for another that is gone."""
    failed = [rank for rank, row in enumerate(rows) if row[0]]
    if not failed:
        return
    texts = layout.all_gather_object(None if error is None else str(error))
    raise PlacementError(f"rank {failed[0]}: {texts[failed[0]]}") from error


def _check_values(rows: list[list[int]], items: Sequence[Item], world_size: int) -> None:
    """Ranks that claim the same pieces of the same list must hold the same values.

    That also tells apart what names do not: two pipeline stages of equal shapes have different weights.
    """
    seen: dict[int, tuple[int, int]] = {}
    places = range(PIECES, PIECES + 2 * MAX_PIECES, 2)
    pairs = [(rank, row[i], row[i + 1]) for rank, row in enumerate(rows) for i in places]
    for rank, pieces, values in pairs:
        first, expected = seen.setdefault(pieces, (rank, values))
        if values == expected:
            continue
        shapes = ", ".join(str(tuple(item.param.shape)) for item in items[:3])
        raise PlacementError(
            f"ranks {first} and {rank} hold parameters that look like copies of the same tensors (shapes {shapes}, ...) but "
            f"their values differ, so it cannot be known whether each element counts once or {world_size} times. {NAME_CURE} "
            "If they are meant to be copies, broadcast them from one rank before the first step, as DistributedDataParallel "
            "does."
        )


def _holders(
    rows: list[list[int]], items: Sequence[Item], sums: list[int], layout: ShardLayout
) -> tuple[dict[str, int], int]:
    """For each item's key the ranks that hold a piece of its tensor, and the elements of all tensors of all ranks."""
    classes: dict[int, list[int]] = {}
    for rank, row in enumerate(rows):
        classes.setdefault(row[2], []).append(rank)
    if len(classes) == 1:
        return {item.key: layout.world_size for item in items}, sum(item.place.global_numel for item in items)
    speaks = layout.rank in [ranks[0] for ranks in classes.values()]
    mine = [_entry(item, value) for item, value in zip(items, sums, strict=True)] if speaks else None
    lists = layout.all_gather_object(mine)
    tensors = _join([(lists[ranks[0]], len(ranks)) for ranks in classes.values()])
    own = list(classes).index(rows[layout.rank][2])
    holders = {item.key: tensors[_global_key(item.key, item.name is not None, own)][0] for item in items}
    return holders, sum(numel for _, numel in tensors.values())


def _join(classes: list[tuple[list[Entry], int]]) -> dict[str, tuple[int, int]]:
    """Classes as (entries, ranks) -> {global key: (ranks that hold a piece, elements of the tensor)}."""
    tensors: dict[str, tuple[int, int]] = {}
    values: dict[tuple[str, str], int] = {}
    owner: dict[tuple[int, int], int] = {}
    for index, (entries, ranks) in enumerate(classes):
        for entry in entries:
            key = _global_key(entry.key, entry.named, index)
            tensors[key] = (tensors.get(key, (0, 0))[0] + ranks, entry.numel)
            if values.setdefault((key, entry.piece), entry.checksum) != entry.checksum:
                raise PlacementError(
                    f"ranks with different lists of parameters disagree on the values of {key}. {NAME_CURE}"
                )
            content = (entry.numel, entry.checksum)
            if not (entry.named or entry.constant) and owner.setdefault(content, index) != index:
                raise PlacementError(
                    f"ranks with different lists of unnamed parameters share one tensor ({key}, {entry.numel} elements), "
                    f"and without names it cannot be known how often it counts. {NAME_CURE}"
                )
    return tensors


def _global_key(key: str, named: bool, class_index: int) -> str:
    """Named tensors are the same tensor in all classes; without a name a position means nothing to another class."""
    return key if named else f"class {class_index}: {key}"


def _copies(
    items: Sequence[Item], holders: dict[str, int], expected: int, layout: ShardLayout, device: torch.device
) -> list[int]:
    """Copies of each item, proven by the count of all elements; declared items are taken at their word.

    Copies may come out uneven on some ranks only. Those still take part in the count, so that all raise.
    """
    counts = [(item, holders.get(item.key, 0)) for item in items if item.copies is None]
    uneven = next(((item, ranks) for item, ranks in counts if ranks == 0 or ranks % item.place.num_shards), None)
    local = sum(item.place.size(item.param) * item.place.num_shards / max(ranks, 1) for item, ranks in counts)
    apart = next((item for item, ranks in counts if item.before and ranks // item.place.num_shards < item.before), None)
    counted = torch.tensor([math.nan if uneven or apart else local], dtype=torch.float64, device=device)
    layout.all_reduce(counted).wait()
    if uneven:
        item, ranks = uneven
        raise PlacementError(
            f"{ranks} ranks hold the parameter {item.key} of shape {tuple(item.param.shape)}, which is cut into "
            f"{item.place.num_shards} pieces: the copies do not come out even. Pass process_group= with the ranks that hold it."
        )
    if apart:
        raise PlacementError(
            f"the parameter {apart.key} of shape {tuple(apart.param.shape)} had {apart.before} copies, and since the lists of "
            f"parameters of the ranks differ it cannot be known which they are. {NAME_CURE}"
        )
    _check_total(float(counted), expected, counts)
    return [item.copies if item.copies is not None else holders[item.key] // item.place.num_shards for item in items]


def _check_total(counted: float, expected: int, counts: Sequence[tuple[Item, int]]) -> None:
    """The weighted count of all ranks' elements is the model's number of elements, or PlacementError."""
    if not abs(counted - expected) <= 1e-6 * max(expected, 1):
        shapes = ", ".join(f"{tuple(i.param.shape)}: {i.place.tensor_key} on {ranks} ranks" for i, ranks in counts[:5])
        raise PlacementError(
            f"the ranks' elements add up to {counted:.6g}, but the model has {expected} ({shapes}, ...). Some parameter is "
            "sharded in a way that was not recognised (nan: on another rank, whose error says which); pass copies= to say how "
            "many ranks hold the same elements. (DeepSpeed: destroy an engine before you build the next one on its model.)"
        )


def _entry(item: Item, checksum: int) -> Entry:
    local = item.place.part(item.param).detach()
    told = item.proven or local.numel() == 0 or not is_readable(item.param)
    constant = told or bool((local == local.reshape(-1)[0]).all())
    place = item.place
    return Entry(
        item.key, item.name is not None, place.num_shards, place.global_numel, place.shard_id, checksum, constant
    )


def _compared(item: Item, world_size: int) -> bool:
    """Return whether it is still to be shown that other ranks hold the same elements."""
    return item.place.num_shards < world_size and not item.proven and is_readable(item.param)


def _checksums(items: Sequence[Item], world_size: int) -> list[int]:
    """A number for the bits of each local tensor; 0 where there is nothing to compare."""
    locals_ = (item.place.part(item.param).detach() if _compared(item, world_size) else None for item in items)
    sums = [None if local is None else _checksum(local) for local in locals_]
    return [0 if value is None else int(value) for value in sums]


def _checksum(t: Tensor) -> Tensor:
    bits = {8: torch.int64, 4: torch.int32, 2: torch.int16, 1: torch.int8}[t.element_size()]
    return t.contiguous().view(bits).sum(dtype=torch.int64) if t.numel() else torch.zeros((), dtype=torch.int64)


def is_readable(p: Tensor) -> bool:
    """Return whether its bits can be read. Frozen weights may be quantized, of a class of their own, or on the meta device."""
    return p.requires_grad or (
        p.dtype in TRAINABLE and type(p) in (Tensor, Parameter, *dtensor_types()) and not p.is_meta
    )
