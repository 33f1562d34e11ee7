"""Scalars of an estimate in the parameter groups: 0-dim views, and what users put in their place.

A group is a plain dict. Beside its options it holds d and the other scalars of its estimate as 0-dim float64 tensors, 1-dim
for a vector, that are views of the estimate's own, and the number of steps as a 0-dim int64 tensor: they show the values as of
the last finished reduce, and reading them waits for no other rank. A number that is assigned takes the view's place until the
next step, which sets the scalar by it and puts the view back.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor

from ..options.fields import NOTHING, number
from .estimate_state import ScalarTable
from .state.validation import scalar

Group = dict[str, Any]
Key = tuple[str, str]
"""(estimate, name of a scalar). The number of steps is of no estimate: ("", "steps")."""


def given(groups: Sequence[Group], views: Sequence[Mapping[str, Tensor]]) -> list[tuple[Key, Any]]:
    """The values that lie in the groups in place of their views, or as d where the method has none."""
    replaced = [
        (("" if name == "steps" else group["estimate"], name), group[name])
        for group, of_group in zip(groups, views, strict=True)
        for name, view in of_group.items()
        if name in group and group[name] is not view
    ]
    strange = (group for group, of_group in zip(groups, views, strict=True) if "d" in group and "d" not in of_group)
    return [*replaced, *(((group["estimate"], "d"), group["d"]) for group in strange)]


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
        raise ValueError(f"d={value!r} must be a number > 0. {table.cure_of_d()}")
    return scalar(name, value, "parameter group", table.lengths.get(name))


def plain(value: Any) -> Any:
    """A 0-dim tensor as a python number, a vector as a list; anything else as it is."""
    return value.tolist() if isinstance(value, Tensor) and value.ndim <= 1 and not value.is_meta else value
