"""Which groups take a step together, in one call of a kernel? Those whose options are equal; there may be one a parameter."""

from collections.abc import Callable, Iterable, Sequence
from itertools import count, repeat
from numbers import Number
from operator import is_, itemgetter
from typing import Any

from ..options.checks import LARGEST, check_lr

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
    """

    def __init__(self, names: Iterable[str], where: str) -> None:
        """names: the options that may differ between groups. where: what an error calls the optimizer."""
        self._names, self._where = tuple(name for name in names if name != "lr"), where
        self.of: list[int] = []
        self.moves = False
        self.version = next(_versions)
        self._orders: list[tuple[str, ...]] = []  # of the keys in each group
        self._pickers: list[Callable[[list[Any]], Row]] = []
        self._groups: list[Group] = []
        self._rows: list[Row] = []
        self._keys: list[Row] = []
        self._kinds: list[int] = []
        self._lrs: list[Any] = []
        self._still = self._still_lrs = False  # can no value in them change in place?

    def look(self, groups: Sequence[Group]) -> None:
        """Take the options as they are now. ValueError, with nothing taken, for an lr that cannot be right."""
        rows, lrs = self._read(groups)
        alike = self._still and self._are_known(groups) and _equal(rows, self._rows)
        if alike and self._still_lrs and all(map(is_, lrs, self._lrs)):
            return
        numbers = self._checked(lrs)
        if not alike:
            self._take(groups, rows)
        self._lrs, self._still_lrs = lrs, numbers is lrs
        self.moves = any(numbers)
        self.of = self._sorted(numbers)

    def _read(self, groups: Sequence[Group]) -> tuple[list[Row], list[Any]]:
        """The options of each group but for its lr, and the lrs: past what a live group has in place of a dict's methods."""
        orders = [*map(tuple, map(dict.keys, groups))]
        if orders != self._orders:
            pickers = {order: _picker(order, self._names) for order in {*orders}}
            self._orders, self._pickers = orders, [pickers[order] for order in orders]
        values = map(list, map(dict.values, groups))
        rows = [pick(of_group) for pick, of_group in zip(self._pickers, values, strict=True)]
        return rows, [*map(dict.get, groups, repeat("lr"))]

    def _are_known(self, groups: Sequence[Group]) -> bool:
        return len(groups) == len(self._groups) and all(map(is_, groups, self._groups))

    def _checked(self, lrs: list[Any]) -> list[float]:
        """The lrs as numbers: the very list, where they are python numbers."""
        if {*map(type, lrs)} <= {float, int} and all(0 <= lr <= LARGEST for lr in {*lrs}):
            return lrs
        return [check_lr(lr, f"{self._where} group {index}") for index, lr in enumerate(lrs)]

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
    if set(names) <= set(order):
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
