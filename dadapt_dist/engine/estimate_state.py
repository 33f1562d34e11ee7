"""Scalars of the estimates (d and others), and how global sums move them."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor

from ..methods.base import PHASES, Initial, Method, Options, Scalars, Sums
from ..options.checks import check_options
from . import loss_channel
from .largest_lrs import LargestLrs
from .plain_values import differ, plain_value
from .shared_options import check_kept, check_same

_VERSION = attrgetter("_version")  # counts the writes into a tensor, also by way of its views
KEPT_HERE = ("k", "held")  # steps in which the estimate moved; steps held because a gradient was not finite
TENSORS = "tensor_estimates"  # key of a group each of whose tensors has an estimate of its own: their names
STARTED = "started"  # kept too, of methods with sums at the start: 1 when they were taken
UPDATES = "updates"  # kept too, of methods that ask for it: steps in which something could move, also held ones


def estimates_of(group: Options) -> Sequence[str]:
    """Names of the estimates of a group: one, or one for each of its tensors."""
    names: Sequence[str] | None = group.get(TENSORS)
    return (group["estimate"],) if names is None else names


class ScalarTable:
    """The scalars of all estimates of one method, the same bits on every rank.

    values: name -> float64 [n_estimates], or [n_estimates, ...] for a scalar that is a vector.
    """

    def __init__(self, method: Method) -> None:
        self.method = method
        self.names: list[str] = []
        self.device = torch.device("cpu")
        self.values: Scalars = {}
        self._constants: list[dict[str, float]] = []
        self._given: dict[str, Options] = {}
        self._constant_tensors: Scalars | None = None
        self.lrs = LargestLrs()  # where the method follows them
        self._sums: Tensor | None = None  # those of the last step
        self._rows: dict[str, int] = {}
        self._views: dict[int | tuple[int, int], Scalars] = {}
        self._own: Scalars = {}  # the values as they were last written here
        self._versions: list[int] = []  # of the values when they were last written here
        self._losses: loss_channel.LossReport | None = None  # of a method that uses the loss, once there were sums

    def __getstate__(self) -> dict[str, Any]:
        """A copied view would be a view of nothing."""
        return self.__dict__ | {"_views": {}, "_own": {}, "_versions": []}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.seal()

    def row(self, estimate: str) -> int:
        """Index of an estimate; ValueError names those that exist."""
        if estimate not in self._rows:
            raise ValueError(f"there is no estimate {estimate!r}; the estimates are: {', '.join(self.names)}")
        return self._rows[estimate]

    def rows_of(self, group: Options) -> int | slice:
        """Index of a group's estimate, or of those of its tensors, which follow each other."""
        names = estimates_of(group)
        if TENSORS not in group:
            return self.row(names[0])
        rows = [self.row(name) for name in names]
        return slice(rows[0], rows[0] + len(rows)) if rows else slice(0, 0)

    def add(self, estimate: str, options: Options, *, given: bool = True) -> None:
        """Add an estimate, or a further group to it. The groups of one estimate must agree on its constants.

        given: False for options that are mere defaults, which the first group of the estimate replaces.
        """
        constants = self.method.constants(options)
        if estimate in self._given:
            check_same(self._given[estimate], options, self.method.shared_options(options))
        elif estimate in self.names:
            self._constants[self.row(estimate)] = constants
            self._start(self.row(estimate), options)
        else:
            self._rows[estimate] = len(self.names)
            self.names.append(estimate)
            self._constants.append(constants)
            self._grow(options)
        if given:
            self._given.setdefault(estimate, self._of_estimate(options))
        self._constant_tensors = None

    def follow(self, groups: Iterable[Options]) -> None:
        """Take the constants of each estimate from its first group as it is now: a user or a checkpoint may have changed it.

        Raises ValueError when the groups of one estimate no longer agree, or an option has changed that a run keeps to its end.
        """
        first: dict[str, Options] = {}
        for group in groups:
            for estimate in estimates_of(group):
                check_kept(self._given.get(estimate, group), group, self.method.fixed_options)
                # Raises for what contradicts itself.
                self.method.completed(group, f"a group of the estimate {estimate!r}")
                if first.setdefault(estimate, group) is not group:
                    check_same(first[estimate], group, self.method.shared_options(group))
        for estimate, group in first.items():
            row, constants = self.row(estimate), self.method.constants(group)
            if constants != self._constants[row]:
                check_options(self._of_estimate(group), self.method.options.checks(), f"estimate {estimate!r}")
                self._constants[row], self._given[estimate] = constants, self._of_estimate(group)
                self._constant_tensors = None

    def load(self, estimate: str, saved: Options) -> None:
        """Set an estimate's scalars, in place, from a saved group."""
        self._sums = None
        row = self.row(estimate)
        for name, value in self.values.items():
            value[row] = _tensor(saved[name])
        self.seal()

    def read(self, row: int, name: str) -> Any:
        """A scalar of an estimate: a float, or a tuple of floats for a vector. Waits for the device."""
        return plain_value(self.values[name][row].tolist())

    def lists(self) -> dict[str, list[Any]]:
        """Each scalar of all estimates, as `read`."""
        return {name: [*map(plain_value, value.tolist())] for name, value in self.values.items()}

    @property
    def lengths(self) -> dict[str, int]:
        """The numbers that each scalar which is a vector has."""
        return {name: value.shape[1] for name, value in self.values.items() if value.dim() > 1}

    def set(self, estimate: str, name: str, value: Any, *, alone: bool = True) -> None:
        """Set a scalar, in place. With d go those that would move it back; ValueError for a d that cannot be.

        alone: False where all other scalars are given too, so that none has to go with d.
        """
        row = self.row(estimate)
        for key, new in (self._moved(row, name, value) if alone else {name: value}).items():
            self.values[key][row] = _tensor(new)
        self.seal()

    def check(self, estimate: str, name: str, value: Any) -> None:
        """Raise ValueError for a d that `set` cannot set, with nothing changed."""
        self._moved(self.row(estimate), name, value)

    def _moved(self, row: int, name: str, value: Any) -> dict[str, Any]:
        """The scalars of an estimate that change with one that is set."""
        if name != "d":
            return {name: value}
        if not 0 < value < math.inf:
            raise ValueError(f"d={value!r} must be a number > 0. {self.cure_of_d()}")
        own = {key: self.read(row, key) for key in self.values}
        if value == own["d"]:
            return {}
        sums = self._last_sums(row)
        if sums is None and value < own["d"] and own["k"] > 0 and self.method.needs_sums_to_lower:
            raise ValueError(
                f"d={value!r} is below {own['d']!r}, and d of {self.method.name} can be lowered only after a step that was not "
                "held, whose sums say how far. Take a step first, or give a new optimizer this d0."
            )
        return self.method.moved(value, own, sums, self.constants(row))

    def cure_of_d(self) -> str:
        """Which option of the method the first d comes from, for a d that cannot be."""
        names = self.method.estimate_options
        return f"To start from another d, pass {'d0' if 'd0' in names else ' or '.join(names)} to the optimizer."

    def _last_sums(self, row: int) -> dict[str, float] | None:
        """The global sums of the last step, where it moved this estimate."""
        if self._sums is None or row >= len(self._sums):
            return None
        *found, bad = map(float, self._sums[row])
        sums, after = loss_channel.values_at(dict(zip(self.names_of("after"), found, strict=True))), self.method.after
        usable = bad == 0 and all(map(math.isfinite, found))
        return sums if usable and after is not None and (after.needs is None or sums[after.needs] > 0) else None

    def _initial(self, options: Options) -> dict[str, Initial]:
        kept = KEPT_HERE if self.method.start is None else (*KEPT_HERE, STARTED)
        kept = (*kept, UPDATES) if self.method.counts_updates else kept
        return dict(self.method.scalars(options)) | dict.fromkeys(kept, 0.0)

    def _grow(self, options: Options) -> None:
        initial = self._initial(options)
        if self.values:
            self._check_kept_alike(initial, options)
        for name, value in initial.items():
            with torch.inference_mode(False):  # tensors of that mode count no writes
                new = _tensor(value).unsqueeze(0).to(self.device)
                self.values[name] = torch.cat([self.values[name], new]) if name in self.values else new
        self._views = {}
        self.seal()

    def _start(self, row: int, options: Options) -> None:
        initial = self._initial(options)
        if initial.keys() != self.values.keys() and not self._given:  # the others are those of mere defaults too
            with torch.inference_mode(False):
                self.values = {
                    name: torch.stack([_tensor(v).to(self.device)] * len(self.names)) for name, v in initial.items()
                }
            self._views = {}
        self._check_kept_alike(initial, options)
        for name, value in initial.items():
            self.values[name][row] = _tensor(value)
        self.seal()

    def _check_kept_alike(self, initial: Mapping[str, Initial], options: Options) -> None:
        """Raise ValueError for an estimate that would keep other scalars than those that are there."""
        differ = ", ".join(sorted(initial.keys() ^ self.values.keys()))
        if differ:
            raise ValueError(
                f"the estimate {options['estimate']!r} would keep other scalars than the others ({differ}), since options of its "
                f"groups differ: {', '.join(self.method.shared_options(options))}. Give all groups the same, or the groups an "
                "optimizer of their own."
            )

    def _of_estimate(self, options: Options) -> Options:
        """The options that all groups of an estimate share; not the group itself, which holds the parameters."""
        return {n: options[n] for n in ("estimate", *self.method.shared_options(options)) if n in options}

    def to(self, device: torch.device) -> None:
        if device != self.device:
            with torch.inference_mode(False):
                self.values = {name: value.to(device) for name, value in self.values.items()}
            self.device, self._constant_tensors, self._views = device, None, {}
            self.seal()

    def constants(self, row: int) -> Mapping[str, float]:
        constants = self._constants[row]
        return constants | self.lrs.of(self.names[row]) if self.method.follows_lr else constants

    def all_constants(self) -> list[dict[str, float]]:
        """Of each estimate."""
        return self._constants

    def fingerprint(self) -> tuple[Any, ...]:
        """The scalars to their last bit that all ranks have alike, for them to compare. Waits for the device."""
        own = {"held", *self.method.of_rank}
        return tuple((name, value.tolist()) for name, value in self.values.items() if name not in own)

    def configuration(self) -> tuple[Any, ...]:  # equal on all ranks
        return self.method.name, tuple(self.names), tuple(tuple(sorted(c.items())) for c in self._constants)

    def _rule_constants(self) -> Scalars:
        if self._constant_tensors is None:
            named = {name: [row[name] for row in self._constants] for name in self._constants[0]}
            self._constant_tensors = {n: _tensor(tuple(values)).to(self.device) for n, values in named.items()}
        return self._constant_tensors | (self.lrs.tensor(self.names, self.device) if self.method.follows_lr else {})

    def names_of(self, phase: str) -> tuple[str, ...]:
        """Names of the sums of a phase: the method's own, before them those of the loss, and "taken" (above 0) at the start."""
        spec: Sums | None = getattr(self.method, phase)
        if spec is None:
            return ()
        if spec.loss:
            return (*loss_channel.COLUMNS, *spec.names)
        return (*spec.names, "taken") if phase == "start" else spec.names

    def width(self, phases: Iterable[str]) -> int:
        """How many numbers a step with these phases has for each estimate: its sums, and the count of bad elements."""
        return sum(len(self.names_of(phase)) for phase in phases) + 1

    def no_sums(self, phases: Iterable[str] = ("after",)) -> Tensor:
        """Sums of no gradient at all: zeros [n_estimates, width]."""
        return torch.zeros(len(self.names), self.width(phases), dtype=torch.float64, device=self.device)

    @property
    def is_sumless(self) -> bool:
        """Whether the method has no sums at all, and so no collective."""
        return not any(self.names_of(phase) for phase in PHASES)

    @property
    def always_before(self) -> bool:
        """Whether every step wants `before` sums, not only the steps until something is known."""
        return type(self.method).wants_before is Method.wants_before

    def wants(self, phase: str) -> bool:
        """Return whether some estimate still wants the sums of this phase. Waits for the device if that depends on scalars."""
        if getattr(self.method, phase) is None:
            return False
        if phase == "start":
            return bool((self.values[STARTED] == 0).any())
        wanted = self.method.wants_before(self.values) if phase == "before" else None
        return wanted is None or bool(wanted.any())

    def apply(self, sums: Tensor, phases: Sequence[str] = ("after",)) -> tuple[Tensor, Tensor]:
        """Move the scalars by the global sums of some phases, in place.

        sums: [n_estimates, width(phases)], the phases in the order of PHASES; last the count of gradient elements that are
        not finite. `before` sums that come with `after` sums were measured for the step that follows: they are folded last.

        An estimate stays where it is when a gradient element was not finite, when there was no gradient yet (the sum that is
        needed is 0), or when the arithmetic overflows. Only functions of the reduced bits decide, so that all ranks do the
        same.

        Returns:
            (bool [n_estimates], the estimates whose sums are finite; the sums without the columns of the loss, all 0 where
            nothing had a gradient)
        """
        clean = (sums[:, -1] == 0) & torch.isfinite(sums).all(1)
        columns = dict(zip(phases, sums[:, :-1].split([len(self.names_of(phase)) for phase in phases], 1), strict=True))
        if "after" in columns:
            self._sums = sums[:, -1 - len(self.names_of("after")) :]
        last = next((phase for phase in reversed(PHASES) if getattr(self.method, phase) is not None), None)
        moved: Scalars = {}
        for phase in sorted(columns, key=("start", "after", "before").index):
            if getattr(self.method, phase) is not None:
                of_phase, usable = self._fold(phase, columns[phase], clean)
                moved |= of_phase
                if phase == last != "start":
                    moved |= self._copy({"k": self.values["k"] + usable})
        moved |= self._hold(~clean)
        if last is None or last in columns:
            moved |= self._copy({"held": self.values["held"] + ~clean})
        self.seal(moved)
        return clean, sums if not self.method.wants_loss else loss_channel.without(columns, self.method)

    def _hold(self, where: Tensor) -> Scalars:
        """Move what changes in a step that is held, in the estimates where it is: (bool [n_estimates] or 0-dim)."""
        if type(self.method).held is Method.held:
            return {}
        new = self.method.held(self.values, self._rule_constants())
        return self._copy({name: torch.where(where, value, self.values[name]) for name, value in new.items()})

    def _copy(self, values: Scalars) -> Scalars:
        """Copy these values of all estimates into the scalars of the same names; they are returned."""
        for name, value in values.items():
            self.values[name].copy_(value)
        return values

    def _fold(self, phase: str, sums: Tensor, clean: Tensor) -> tuple[Scalars, Tensor]:
        """Move the scalars by the sums of one phase: (the new values, bool [n_estimates], the estimates that moved)."""
        spec, fold = getattr(self.method, phase), getattr(self.method, f"fold_{phase}")
        columns = dict(zip(self.names_of(phase), sums.unbind(1), strict=True))
        usable = clean & self._awaits(phase)
        if phase == "start":
            usable = usable & (columns["taken"] > 0)
        if spec.loss:
            self._losses = self._losses or loss_channel.LossReport()
            usable = usable & self._losses.take(columns, usable, self.method.least_loss, self._rule_constants())
        if spec.needs is not None:
            usable = usable & (columns[spec.needs] > 0)
        safe = {name: torch.where(usable, column, 1.0) for name, column in columns.items()}
        new = fold(safe, self.values, self._rule_constants())
        for value in new.values():
            usable = usable & _finite(value)
        moved = {}
        for name, value in new.items():
            own = self.values[name]
            moved[name] = torch.where(usable.view(-1, *[1] * (own.dim() - 1)), value, own)
        if phase == "start":
            moved[STARTED] = self.values[STARTED] + usable
        return self._copy(moved), usable

    def _awaits(self, phase: str) -> Tensor | bool:
        """Return which estimates these sums may move: bool [n_estimates], or True for all."""
        if phase == "start":
            return self.values[STARTED] == 0
        wanted = self.method.wants_before(self.values) if phase == "before" else None
        awaits = wanted is None or wanted
        return awaits if self.method.start is None else awaits & (self.values[STARTED] > 0)

    def count(self, moving: list[bool], overflow: Tensor | None) -> None:
        """Count a step of the estimates that move in "k", unless it overflowed (0-dim bool; None: nobody looked)."""
        for row in (row for row, moves in enumerate(moving) if moves):
            self.values["k"][row].add_(1 if overflow is None else ~overflow)
        self.seal({"k": self.values["k"].clone()})

    def advance(self, moving: Callable[[], list[bool]], overflow: Tensor | None) -> None:
        """Move what follows from a step whatever its sums, in the estimates that move, unless it overflowed (see `count`)."""
        if type(self.method).advance is Method.advance and UPDATES not in self.values:
            return
        new = self.method.advance(self.values, self._rule_constants())
        if not new and type(self.method).held is Method.held:
            return
        rows = moving()
        moves = None if overflow is None else ~overflow.to(self.device)
        if not all(rows):
            there = torch.stack([torch.full((), row, device=self.device) for row in rows])  # no copy, which would wait
            moves = there if moves is None else moves & there
        if moves is not None:
            new = {name: torch.where(moves, value, self.values[name]) for name, value in new.items()}
        self.seal(self._copy(new) | ({} if overflow is None else self._hold(overflow.to(self.device))))

    def begin(self, rms: Tensor) -> None:
        """Move what follows from the root mean square of the model, as `Method.begin`."""
        self.put(self.method.begin(rms, self.values, self._rule_constants()))

    def freeze(self) -> None:
        """Move what changes once the estimates are frozen, as `Method.froze`."""
        self.put(self.method.froze(self.values))

    def put(self, values: Scalars) -> None:
        """Copy these values of all estimates into the scalars of the same names."""
        self._copy(values)
        self.seal()

    def of(self, row: int | slice) -> Scalars:
        """One estimate's scalars as views, 0-dim but for vectors; or those of several, with a first dimension.

        The same tensors at each call, until the values move to another device.
        """
        key = row if isinstance(row, int) else (row.start, row.stop)
        if key not in self._views:
            self._views[key] = {name: value[row] for name, value in self.values.items()}
        return self._views[key]

    def seal(self, written: Mapping[str, Tensor] | None = None) -> None:
        """Take note that the values are what was written here, so that `written` finds what others write.

        written: some of the values, as tensors that nothing else will change. The others have not changed since the last call,
        but for those that were not there; None: any may have changed.
        """
        changed = self.values if written is None else written
        self._own = self._own | {name: value.clone() if written is None else value for name, value in changed.items()}
        self._versions = [*map(_VERSION, self.values.values())]

    def written(self) -> dict[tuple[str, str], Any]:
        """What somebody has written into views of the values, by (estimate, name); the values are then those of before.

        Waits for the device only where there is something.
        """
        if self._versions == [*map(_VERSION, self.values.values())]:
            return {}
        given = {}
        for name, value in self.values.items():
            for row, (now, before) in enumerate(zip(value.tolist(), self._own[name].tolist(), strict=True)):
                if differ(now, before):
                    given[self.names[row], name] = plain_value(now)
            value.copy_(self._own[name])
        self._versions = [*map(_VERSION, self.values.values())]
        return given

    def on(self, device: torch.device, row: int) -> Scalars:
        """One estimate's scalars as `of`, on a device; views where they live there."""
        wait = device.type == "cpu"  # a copy to the host that nobody waits for may be read before it has arrived
        return {name: value.to(device, non_blocking=not wait) for name, value in self.of(row).items()}


def _tensor(value: Initial) -> Tensor:
    return torch.tensor(value, dtype=torch.float64, device="cpu")


def _finite(value: Tensor) -> Tensor:
    """Return which estimates have a value that is finite in every entry: bool [n_estimates]."""
    finite = torch.isfinite(value)
    return finite if value.dim() == 1 else finite.flatten(1).all(1)
