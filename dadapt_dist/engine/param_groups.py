"""Scalars of an estimate in the parameter groups: 0-dim views, and what users put in their place.

A group is a plain dict. Beside its options it holds d and the other scalars of its estimate as 0-dim float64 tensors, 1-dim
for a vector, that are views of the estimate's own, and the number of steps as a 0-dim int64 tensor: they show the values as of
the last finished reduce, and reading them waits for no other rank. A number that is assigned takes the view's place until the
next step, which sets the scalar by it and puts the view back.
"""

import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor

from ..options.fields import NOTHING, number
from .estimate_state import TENSORS, ScalarTable, estimates_of
from .state.validation import scalar

logger = logging.getLogger(__name__)

Group = dict[str, Any]
Key = tuple[str, str]
"""(estimate, name of a scalar). The number of steps is of no estimate: ("", "steps")."""


def given(groups: Sequence[Group], views: Sequence[Mapping[str, Tensor]]) -> list[tuple[Key, Any]]:
    """The values that lie in the groups in place of their views, or as d where the method has none.

    A view that was deleted says nothing, and is put back.
    """
    for group, of_group in zip(groups, views, strict=True):
        group.update({name: view for name, view in of_group.items() if name not in group})
    replaced = [
        entry
        for group, of_group in zip(groups, views, strict=True)
        for name, view in of_group.items()
        if group[name] is not view
        for entry in _keyed(group, name)
    ]
    strange = (group for group, of_group in zip(groups, views, strict=True) if "d" in group and "d" not in of_group)
    return [*replaced, *(entry for group in strange for entry in _keyed(group, "d"))]


def _keyed(group: Group, name: str) -> list[tuple[Key, Any]]:
    """A value that lies in a group, for each of its estimates: one for all, or one for each tensor."""
    value = group[name]
    if name == "steps":
        return [(("", "steps"), value)]
    estimates = estimates_of(group)
    if TENSORS in group and isinstance(value, (list, tuple, Tensor)) and len(plain(value)) == len(estimates):
        return [((estimate, name), one) for estimate, one in zip(estimates, plain(value), strict=True)]
    return [((estimate, name), value) for estimate in estimates]


def checked(values: Iterable[tuple[Key, Any]], table: ScalarTable) -> dict[Key, Any]:
    """The values as python numbers, d before the others, which may follow it.

    Raises ValueError for one that cannot be right, and where groups of one estimate were given different ones.
    """
    numbers: dict[Key, Any] = {}
    for key, value in sorted(values, key=lambda item: item[0][1] != "d"):
        read = _read(key[1], value, table)
        if numbers.setdefault(key, read) != read:
            raise ValueError(
                f"groups of one estimate were given different values of {key[1]}: {numbers[key]!r} and {read!r}. One estimate "
                f"has one {key[1]}: give it to one of its groups, or the same to all."
            )
    return numbers


def _read(name: str, value: Any, table: ScalarTable) -> Any:
    if name not in ("steps", *table.values):
        raise ValueError(f"d={value!r} cannot be set: {table.method.name} has no d. Set lr, which shapes its steps.")
    if name == "d" and ((read := number(value)) is NOTHING or not 0 < read < math.inf):
        several = isinstance(value, (list, tuple, Tensor)) and len(table.names) > 1
        more = " or, with an estimate for each tensor, one such number for each tensor of the group" if several else ""
        raise ValueError(f"d={value!r} must be a number > 0{more}. {table.cure_of_d()}")
    return scalar(name, value, "parameter group", table.lengths.get(name))


def warn_of_d(group: Group, where: str) -> None:
    """Tell of a d that a new group was given. A tensor is what another optimizer showed in its groups."""
    if "d" in group and not isinstance(group["d"], Tensor):
        logger.warning(
            "%s: d=%r of a new group is not taken, for its estimate says what d is. Give the first d as an option (d0), or "
            "set it afterwards: optimizer.set_d(value).",
            where,
            group["d"],
        )


def plain(value: Any) -> Any:
    """A 0-dim tensor as a python number, a vector as a list; anything else as it is."""
    return value.tolist() if isinstance(value, Tensor) and value.ndim <= 1 and not value.is_meta else value
