"""One estimate a tensor: names for the tensors of each group, and a step in which every tensor is a group of its own."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from torch import Tensor

from ..errors import PlacementError
from ..sharding.registry import resolve
from .estimate_state import TENSORS
from .option_sets import STAYS, Lots

Group = dict[str, Any]
Entries = Sequence[tuple[Group, Sequence[Tensor]]]


class TensorLots(NamedTuple):
    """The lots of groups that were split, as `Lots` has them: each tensor is one, or STAYS."""

    of: list[int]
    version: int
    moves: bool


def name_tensors(groups: Sequence[Group], first: int) -> None:
    """Give each group the names of the estimates of its tensors: their own names where they have some, else "group.place".

    Args:
        groups: New groups of one optimizer; changed.
        first: The place of the first of the groups in the optimizer.
    """
    for index, group in enumerate(groups, start=first):
        names = group.get("param_names") or [f"{index}.{place}" for place in range(len(group["params"]))]
        group[TENSORS] = [str(name) for name in names]


def split(entries: Entries, lots: Lots) -> tuple[Entries, TensorLots]:
    """Every tensor as the only one of a group with its own estimate and the options of its group.

    Args:
        entries: Groups with their tensors.
        lots: Of the groups.

    Raises:
        ValueError: A group has other tensors than it has names for.
    """
    split_entries: list[tuple[Group, Sequence[Tensor]]] = []
    of: list[int] = []
    for (group, params), lot in zip(entries, lots.of, strict=True):
        _check_number(group, params)
        for name, p in zip(group[TENSORS], params, strict=True):
            of.append(STAYS if lot == STAYS else len(of))
            split_entries.append(({**group, "estimate": name}, [p]))
    return split_entries, TensorLots(of, lots.version, lots.moves)


def check_tensors(members: Sequence[Any]) -> None:
    """Raise PlacementError where the optimizers' tensors are not the model's, but packed into flat ones."""
    for member in members:
        shown = [[p for _, p in named] for named in member._brought_by.tensors(member._all_groups)]
        packed = [place for places in resolve([p for params in shown for p in params]) for place in places]
        if member._brought_by.replaces_parameters or any(
            place.flat_slice is not None or place.packs_several for place in packed
        ):
            raise PlacementError(
                'estimates="per_tensor" needs each tensor of the model in the optimizer, and a framework has packed them into '
                "flat ones, whose parts have one d together. Use FSDP2, DDP or FSDP1 with use_orig_params=True, which keep them "
                "apart, or take one d for all, with estimates=None."
            )
        for group, params in zip(member._all_groups, shown, strict=True):
            _check_number(group, params)


def _check_number(group: Group, params: Sequence[Tensor]) -> None:
    if len(group[TENSORS]) != len(params):
        raise ValueError(
            f"a parameter group has {len(params)} tensors, and estimates for {len(group[TENSORS])}. Give it new tensors as a "
            "group of their own, with optimizer.add_param_group."
        )
