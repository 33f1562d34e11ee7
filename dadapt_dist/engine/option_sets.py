"""Collect groups with equal options, which take a step together in one kernel call; there may be a group a parameter."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain, count, repeat
from numbers import Number
from operator import is_, itemgetter
from typing import Any

from ..options.checks import LARGEST, assigned, check_lr
from ..options.fields import Check

Group = dict[str, Any]
Row = tuple[Any, ...]
STAYS = -1
"""The lot of a group whose lr is 0: nothing of it moves."""
_versions = count(1)


class Lots:
    """The lots of an optimizer's groups. Groups of one lot have equal options, and so equal coefficients.

    Anybody may change any option at any time, so all are compared in every step; what follows from them is worked out anew
    only when one has changed. of: for each group the number of its lot, or STAYS. moves: is some lr above 0?
    version: another number whenever the groups, or an option other than lr, are others than before.
    replaced: has somebody put another value in the place of a view that a group had?
    """

    def __init__(self, names: Iterable[str], checks: Mapping[str, Check], where: str) -> None:
        """names: the options that may differ between groups. checks: by name. where: what an error calls the optimizer."""
        self._all_names, self._checks, self._where = tuple(name for name in names if name != "lr"), checks, where
        self._names = self._all_names  # those that some group has
        self._scalars: tuple[str, ...] = ()
        self.replaced = False
        self.of: list[int] = []
        self.moves = False
        self.version = next(_versions)
        self._orders: list[tuple[str, ...]] = []  # of the keys in each group
        self._pickers: list[
            tuple[Callable[[list[Any]], Row], Callable[[list[Any]], Row]]
        ] = []  # of options, of scalars
        self._strange = False  # has a group a d that no estimate has?
        self._alike = False  # have all groups the same keys in the same order?
        self._groups: list[Group] = []
        self._rows: list[Row] = []
        self._keys: list[Row] = []
        self._kinds: list[int] = []
        self._lrs: list[Any] = []
        self._still = self._still_lrs = False  # can no value in them change in place?

    def look(self, groups: Sequence[Group], scalars: tuple[str, ...] = (), views: Iterable[Any] = ()) -> None:
        """Take the options as they are now, and leave them in the groups as plain python.

        scalars: names under which each group should have views. views: these, of one group after the other.

        Raises ValueError, with nothing taken, for one that cannot be right.
        """
        rows, lrs = self._read(groups, scalars, views)
        alike = self._still and self._are_known(groups) and _equal(rows, self._rows)
        if not alike:
            rows = self._plain(groups, rows)
        if alike and self._still_lrs and all(map(is_, lrs, self._lrs)):
            return
        numbers, lrs = self._checked(groups, lrs)
        if not alike:
            self._take(groups, rows)
        self._lrs, self._still_lrs = lrs, numbers is lrs
        self.moves = any(numbers)
        self.of = self._sorted(numbers)

    def _read(
        self, groups: Sequence[Group], scalars: tuple[str, ...], views: Iterable[Any]
    ) -> tuple[list[Row], list[Any]]:
        """The options of each group but for its lr, and the lrs."""
        orders = [*map(tuple, groups)]
        if orders != self._orders or scalars != self._scalars:
            self._name(tuple(name for name in self._all_names if any(name in order for order in {*orders})))
            pickers = {order: (_picker(order, self._names), _picker(order, scalars)) for order in {*orders}}
            self._orders, self._pickers = orders, [pickers[order] for order in orders]
            self._alike = len(pickers) == 1
            self._scalars = scalars
            self._strange = bool(scalars) and "d" not in scalars and any("d" in order for order in pickers)
        values = [*map(list, map(dict.values, groups))]
        rows = [*self._picked(0, values)]
        if scalars:
            kept = all(map(is_, chain.from_iterable(self._picked(1, values)), views))
            self.replaced = not kept or self._strange
        return rows, [*map(dict.get, groups, repeat("lr"))]

    def _name(self, names: tuple[str, ...]) -> None:
        """Compare the options of these names from now on."""
        if names != self._names:
            self._names, self._groups = names, []  # the rows of before say nothing

    def _picked(self, which: int, values: list[list[Any]]) -> Iterator[Row]:
        """The options (0) or the scalars (1) of each group."""
        if self._alike:
            return map(self._pickers[0][which], values)
        return (pick[which](of_group) for pick, of_group in zip(self._pickers, values, strict=True))

    def _plain(self, groups: Sequence[Group], rows: list[Row]) -> list[Row]:
        """The rows with all options checked and read as plain python, which the groups then have too."""
        before: Sequence[Row] = self._rows if self._are_known(groups) else [(None,) * len(self._names)] * len(rows)
        read = [
            {
                name: self._read_one(name, now, index)
                for name, now, was in zip(self._names, row, old, strict=True)
                if now is not was and name in group
            }
            for index, (group, row, old) in enumerate(zip(groups, rows, before, strict=True))
        ]
        for group, changed in zip(groups, read, strict=True):
            group.update((name, value) for name, value in changed.items() if group[name] is not value)
        return [tuple(map(group.get, self._names)) for group in groups]

    def _read_one(self, name: str, value: Any, index: int) -> Any:
        return assigned(name, value, self._checks, f"{self._where} group {index}")

    def _are_known(self, groups: Sequence[Group]) -> bool:
        return len(groups) == len(self._groups) and all(map(is_, groups, self._groups))

    def _checked(self, groups: Sequence[Group], lrs: list[Any]) -> tuple[list[float], list[Any]]:
        """(the lrs as numbers, the lrs as the groups then have them): one list, where they are python numbers."""
        if {*map(type, lrs)} <= {float, int} and all(0 <= lr <= LARGEST for lr in {*lrs}):
            return lrs, lrs
        numbers = [check_lr(lr, f"{self._where} group {index}") for index, lr in enumerate(lrs)]
        kept = [self._read_one("lr", lr, index) for index, lr in enumerate(lrs)]
        for group, lr in zip(groups, kept, strict=True):
            group["lr"] = lr
        return numbers, kept

    def _take(self, groups: Sequence[Group], rows: list[Row]) -> None:
        keys = [tuple(map(_fixed, row)) for row in rows]
        changed = not (self._are_known(groups) and keys == self._keys)
        self._groups, self._rows, self._keys, self._still = list(groups), rows, keys, _equal(keys, rows)
        if changed:
            known: dict[Any, int] = {}
            self._kinds = [known.setdefault(key, len(known)) for key in keys]
            self.version = next(_versions)

    def _sorted(self, numbers: list[float]) -> list[int]:
        if len({*numbers}) == 1:
            return self._kinds if self.moves else [STAYS] * len(numbers)
        known: dict[Any, int] = {}
        pairs = zip(self._kinds, numbers, strict=True)
        return [known.setdefault(pair, len(known)) if pair[1] else STAYS for pair in pairs]


def _picker(order: tuple[str, ...], names: tuple[str, ...]) -> Callable[[list[Any]], Row]:
    """Picks the options of these names from the values of a group with keys in this order; None for one that is not there."""
    if len(names) > 1 and set(names) <= set(order):
        return itemgetter(*map(order.index, names))
    return lambda values: tuple(dict(zip(order, values, strict=True)).get(name) for name in names)


def _fixed(value: Any) -> Any:
    """The value, as something that cannot change in place; what is no number or word, such as a tensor, equals nothing."""
    if isinstance(value, (tuple, list)):
        return tuple(map(_fixed, value))
    return value if value is None or isinstance(value, (Number, str)) else object()


def _equal(rows: list[Row], others: list[Row]) -> bool:
    try:
        return rows == others
    except (ValueError, RuntimeError, TypeError):  # somebody has put in an array, which compares element by element
        return False
