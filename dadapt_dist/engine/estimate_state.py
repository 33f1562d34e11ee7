"""What are d and the other scalars of an estimate, and how do global sums move them?"""

import math
from collections.abc import Iterable, Mapping
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor

from ..methods.base import Method, Options, Scalars
from ..options.checks import check_options

OF_ESTIMATE = ("d0", "d_coef", "growth_rate", "beta3")  # options that all groups of one estimate must share
_VERSION = attrgetter("_version")  # counts the writes into a tensor, also by way of its views
KEPT_HERE = ("k", "held")  # steps in which the estimate moved; steps held because a gradient was not finite


class ScalarTable:
    """The scalars of all estimates of one method: name -> float64 [n_estimates], the same bits on every rank."""

    def __init__(self, method: Method) -> None:
        self.method = method
        self.names: list[str] = []
        self.device = torch.device("cpu")
        self.values: Scalars = {}
        self._constants: list[dict[str, float]] = []
        self._given: dict[str, Options] = {}
        self._constant_tensors: Scalars | None = None
        self._sums: Tensor | None = None  # those of the last step
        self._views: dict[int, Scalars] = {}
        self._own: Scalars = {}  # the values as they were last written here
        self._versions: list[int] = []  # of the values when they were last written here

    def __getstate__(self) -> dict[str, Any]:
        """A copied view would be a view of nothing."""
        return self.__dict__ | {"_views": {}, "_own": {}, "_versions": []}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.seal()

    def row(self, estimate: str) -> int:
        """Index of an estimate; ValueError names those that exist."""
        if estimate not in self.names:
            raise ValueError(f"there is no estimate {estimate!r}; the estimates are: {', '.join(self.names)}")
        return self.names.index(estimate)

    def add(self, estimate: str, options: Options, *, given: bool = True) -> None:
        """Add an estimate, or a further group to it. The groups of one estimate must agree on its constants.

        given: False for options that are mere defaults, which the first group of the estimate replaces.
        """
        constants = self.method.constants(options)
        if estimate in self._given:
            _check_same(self._given[estimate], options)
        elif estimate in self.names:
            self._constants[self.row(estimate)] = constants
            self._start(self.row(estimate), options)
        else:
            self.names.append(estimate)
            self._constants.append(constants)
            self._grow(options)
        if given:
            self._given.setdefault(estimate, _of_estimate(options))
        self._constant_tensors = None

    def follow(self, groups: Iterable[Options]) -> None:
        """Take the constants of each estimate from its first group as it is now: a user or a checkpoint may have changed it.

        Raises ValueError when the groups of one estimate no longer agree.
        """
        first: dict[str, Options] = {}
        for group in groups:
            estimate = group["estimate"]
            if first.setdefault(estimate, group) is not group:
                _check_same(first[estimate], group)
        for estimate, group in first.items():
            row, constants = self.row(estimate), self.method.constants(group)
            if constants != self._constants[row]:
                check_options(_of_estimate(group), group, f"estimate {estimate!r}")
                self._constants[row], self._given[estimate] = constants, _of_estimate(group)
                self._constant_tensors = None

    def load(self, estimate: str, saved: Options) -> None:
        """Set an estimate's scalars, in place, from a saved group."""
        self._sums = None
        row = self.row(estimate)
        for name, value in self.values.items():
            value[row] = saved[name]
        self.seal()

    def set(self, estimate: str, name: str, value: float) -> None:
        """Set a scalar, in place. With d go those that would move it back; ValueError for a d that cannot be."""
        row = self.row(estimate)
        self.check(estimate, name, value)
        own = {key: float(values[row]) for key, values in self.values.items()}
        if name != "d":
            moved = {name: value}
        else:
            moved = (
                {} if value == own["d"] else self.method.moved(value, own, self._last_sums(row), self.constants(row))
            )
        for key, new in moved.items():
            self.values[key][row] = new
        self.seal()

    def check(self, estimate: str, name: str, value: float) -> None:
        """Raise ValueError for a d that `set` cannot set, with nothing changed."""
        if name != "d":
            return
        if not 0 < value < math.inf:
            raise ValueError(f"d={value!r} must be a number > 0. To start from another d, pass d0 to the optimizer.")
        row = self.row(estimate)
        d, moved = float(self.values["d"][row]), float(self.values["k"][row]) > 0
        if value < d and moved and self.method.needs_sums_to_lower and self._last_sums(row) is None:
            raise ValueError(
                f"d={value!r} is below {d!r}, and d of {self.method.name} can be lowered only after a step that was not "
                "held, whose sums say how far. Take a step first, or give a new optimizer this d0."
            )

    def _last_sums(self, row: int) -> dict[str, float] | None:
        """The global sums of the last step, where it moved this estimate."""
        if self._sums is None or row >= len(self._sums):
            return None
        *found, bad = map(float, self._sums[row])
        sums = dict(zip(self.method.sums, found, strict=True))
        return sums if bad == 0 and all(map(math.isfinite, found)) and sums[self.method.denominator] > 0 else None

    def _initial(self, options: Options) -> dict[str, float]:
        return dict(self.method.scalars(options)) | dict.fromkeys(KEPT_HERE, 0.0)

    def _grow(self, options: Options) -> None:
        for name, value in self._initial(options).items():
            with torch.inference_mode(False):  # tensors of that mode count no writes
                new = torch.tensor([value], dtype=torch.float64, device=self.device)
                self.values[name] = torch.cat([self.values[name], new]) if name in self.values else new
        self._views = {}
        self.seal()

    def _start(self, row: int, options: Options) -> None:
        for name, value in self._initial(options).items():
            self.values[name][row] = value
        self.seal()

    def to(self, device: torch.device) -> None:
        if device != self.device:
            with torch.inference_mode(False):
                self.values = {name: value.to(device) for name, value in self.values.items()}
            self.device, self._constant_tensors, self._views = device, None, {}
            self.seal()

    def constants(self, row: int) -> Mapping[str, float]:
        return self._constants[row]

    def all_constants(self) -> list[dict[str, float]]:
        """Of each estimate."""
        return self._constants

    def fingerprint(self) -> tuple[Any, ...]:
        """The scalars to their last bit, but for the count of held steps, for ranks to compare. Waits for the device."""
        return tuple((name, value.tolist()) for name, value in self.values.items() if name != "held")

    def configuration(self) -> tuple[Any, ...]:
        """What must be equal on all ranks."""
        return self.method.name, tuple(self.names), tuple(tuple(sorted(c.items())) for c in self._constants)

    def _rule_constants(self) -> Scalars:
        if self._constant_tensors is None:
            rows = self._constants
            self._constant_tensors = {
                name: torch.tensor([row[name] for row in rows], dtype=torch.float64, device=self.device)
                for name in rows[0]
            }
        return self._constant_tensors

    def apply(self, sums: Tensor) -> None:
        """Move the scalars by the global sums [n_estimates, n_sums + 1] (the last: non-finite gradient elements), in place.

        An estimate stays where it is when a gradient element was not finite, when there was no gradient yet (its
        denominator is 0), or when the arithmetic overflows. Only functions of the reduced bits decide, so that all ranks
        do the same.
        """
        self._sums = sums
        columns = dict(zip(self.method.sums, sums.unbind(1), strict=False))
        clean = (sums[:, -1] == 0) & torch.isfinite(sums).all(1)
        usable = clean & (columns[self.method.denominator] > 0)
        safe = {name: torch.where(usable, column, 1.0) for name, column in columns.items()}
        new = self.method.rule(safe, self.values, self._rule_constants())
        for value in new.values():
            usable = usable & torch.isfinite(value)
        moved = {name: torch.where(usable, value, self.values[name]) for name, value in new.items()}
        moved["k"], moved["held"] = self.values["k"] + usable, self.values["held"] + ~clean
        for name, value in moved.items():
            self.values[name].copy_(value)
        self.seal(moved)

    def count(self, moving: list[bool], overflow: Tensor | None) -> None:
        """Count a step of a frozen d for the estimates that move, unless it overflowed (0-dim bool; None: nobody looked)."""
        for row in (row for row, moves in enumerate(moving) if moves):
            self.values["k"][row].add_(1 if overflow is None else ~overflow)
        self.seal({"k": self.values["k"].clone()})

    def no_sums(self) -> Tensor:
        """Sums of no gradient at all: zeros [n_estimates, n_sums + 1]."""
        return torch.zeros(len(self.names), len(self.method.sums) + 1, dtype=torch.float64, device=self.device)

    def absorb(self, early_sums: Tensor) -> None:
        """Store what the early sums [n_estimates, n_early_sums] set, in place."""
        columns = dict(zip(self.method.early_sums, early_sums.unbind(1), strict=True))
        self.put(self.method.absorb(columns, self.values))

    def put(self, values: Scalars) -> None:
        """Copy these values, float64 [n_estimates] each, into the scalars of the same names."""
        for name, value in values.items():
            self.values[name].copy_(value)
        self.seal()

    def of(self, row: int) -> Scalars:
        """One estimate's scalars as 0-dim views: the same tensors at each call, until the values move to another device."""
        if row not in self._views:
            self._views[row] = {name: value[row] for name, value in self.values.items()}
        return self._views[row]

    def seal(self, written: Mapping[str, Tensor] | None = None) -> None:
        """Take note that the values are what was written here, so that `written` finds what others write.

        written: some of the values, as tensors that nothing else will change. The others have not changed since the last call,
        but for those that were not there; None: any may have changed.
        """
        changed = self.values if written is None else written
        self._own = self._own | {name: value.clone() if written is None else value for name, value in changed.items()}
        self._versions = [*map(_VERSION, self.values.values())]

    def written(self) -> dict[tuple[str, str], float]:
        """What somebody has written into views of the values, by (estimate, name); the values are then those of before.

        Waits for the device only where there is something.
        """
        if self._versions == [*map(_VERSION, self.values.values())]:
            return {}
        given = {}
        for name, value in self.values.items():
            for row, (now, before) in enumerate(zip(value.tolist(), self._own[name].tolist(), strict=True)):
                if now != before and (now == now or before == before):  # NaN is the same as NaN
                    given[self.names[row], name] = now
            value.copy_(self._own[name])
        self._versions = [*map(_VERSION, self.values.values())]
        return given

    def on(self, device: torch.device, row: int) -> Scalars:
        """One estimate's scalars as 0-dim tensors on a device; views where they live there."""
        wait = device.type == "cpu"  # a copy to the host that nobody waits for may be read before it has arrived
        return {name: value.to(device, non_blocking=not wait) for name, value in self.of(row).items()}


def _of_estimate(options: Options) -> Options:
    """The options that all groups of an estimate share; not the group itself, which holds the parameters."""
    return {name: options[name] for name in ("estimate", *OF_ESTIMATE) if name in options}


def _check_same(first: Options, other: Options) -> None:
    """Betas may differ between groups: the averaging constant of the estimate is that of its first group."""
    for name in OF_ESTIMATE:
        if first.get(name) != other.get(name):
            raise ValueError(
                f"two groups of the estimate {first['estimate']!r} differ in {name}: {first[name]!r} and {other[name]!r}. One d "
                f'has one {name}: give both groups the same, or one of them an "estimate" of its own.'
            )
