"""The estimates of a StepSize: which groups take part, how their scalars are read, set and loaded, and the count of steps."""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from copy import deepcopy
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from ..comm.async_all_reduce import Reduce
from ..comm.communicator import ShardLayout
from ..kernels import eager
from ..methods.base import Method, Options
from ..options.fields import NOTHING, number
from . import param_groups
from .estimate_state import ScalarTable, estimates_of
from .grad_norms import GradNorms
from .loss_checks import LossChecks
from .members import Roster
from .option_sets import Lots
from .param_groups import Key
from .rank_agreement import Agreement
from .settings import warn_if_idle
from .tensor_rms import TensorRms
from .trials import Trials


class StepCount:
    """The number of steps taken, without those that overflowed, which are counted on their device.

    shown: the count as the host knows it, a 0-dim int64 tensor on the CPU that parameter groups hold.
    """

    def __init__(self) -> None:
        with torch.inference_mode(False):  # tensors of that mode count no writes
            self.shown = torch.zeros((), dtype=torch.int64, device="cpu")
        self.reset(0)

    def reset(self, count: int) -> None:
        """Count on from here."""
        self.count = self._least = count  # count: with those that overflowed since `read`
        self._overflowed: Tensor | None = None
        self._show()

    def _show(self) -> None:
        self.shown.fill_(self.count)
        self._version = self.shown._version

    def written(self) -> int | None:
        """The number that somebody has written into `shown`, which then shows the count again; None without one."""
        if self.shown._version == self._version:
            return None
        given = int(self.shown)
        self._show()
        return given

    def add(self, moves: bool, overflow: Tensor | None) -> None:
        """Count a step that moves something, if it did not overflow (None: nobody looked)."""
        if not moves:
            return
        if overflow is not None and eager.readable(overflow.device):
            self.count += not bool(overflow)
        else:
            self.count += 1
        self._show()
        if overflow is not None and not eager.readable(overflow.device):
            self._overflowed = overflow.to(torch.int64) + (0 if self._overflowed is None else self._overflowed)

    def read(self) -> int:
        """The number; waits for the device when a scaler has looked at a step since the last call."""
        if self._overflowed is not None:
            self.count -= int(self._overflowed)
            self._overflowed = None
            self._show()
        self._least = self.count
        return self.count

    def reached(self, limit: int) -> bool:
        """Return whether the number is at least `limit`. Waits for the device at most once for each overflow, and once more."""
        return self._least >= limit or (self.count >= limit and self.read() >= limit)


class Estimates(ABC):
    """The scalars of the estimates of D, and the groups and optimizers that share them; `StepSize` moves them."""

    freeze_after: int | None
    _layout: ShardLayout
    _roster: Roster
    _table: ScalarTable | None
    _per_tensor: bool
    _declared: tuple[str, ...] | None
    _count: StepCount
    _followed: list[int]  # versions of the options that the scalars follow
    _done: set[str]  # phases whose sums no estimate wants any more
    _written: dict[Key, Any]  # what somebody has written into views of the scalars, and no step has seen yet
    _window: Any  # the open step
    _explicit: bool  # is it bracketed by `window`?
    _released: bool  # were the buffers dropped that serve the estimate alone?
    _norms: GradNorms | None = None  # of the gradients, where they are asked for
    _clip_scale: Tensor | None = None  # what the gradients of the present step are divided by, where they are clipped
    _rms: TensorRms | None = None  # of the tensors of the model, where the method's step depends on it

    @abstractmethod
    def _finish(self) -> None:
        """Wait for the reduce under way, if any, and move the scalars by it."""

    @cached_property
    def _reduce(self) -> Reduce:
        """The reduce of a step."""
        return Reduce(self._layout)

    @cached_property
    def _agreement(self) -> Agreement:
        """What all ranks keep equal."""
        return Agreement()

    @cached_property
    def _trials(self) -> Trials:
        """Whether trial steps are still to come."""
        return Trials()

    @cached_property
    def _losses(self) -> LossChecks:
        """What is wrong with the losses of the steps."""
        return LossChecks()

    # ---------------------------------------------------------------- joining

    def _join(self, method: Method, defaults: Options, groups: Sequence[Options]) -> None:
        """Take part with these groups; raises ValueError, and stays as it was, when one of them cannot."""
        is_first = self._table is None
        if not is_first:
            self._finish()
        before = deepcopy(self._table)
        try:
            self._bind(method, defaults)
            for group in groups:
                self._add(group)
            if not self._scalars.names:  # of a rank without tensors, which the others refuse
                self._scalars.add("none", defaults, given=False)
        except ValueError:
            self._table = before
            for member in self._roster:
                member._bind_groups()
            raise
        if not is_first:
            self._look_anew()

    def _bind(self, method: Method, defaults: Options) -> None:
        """Take the method of the first optimizer; another method later raises ValueError."""
        if self._table is None:
            if self.freeze_after is not None:
                warn_if_idle(method, self.freeze_after)
            self._table = ScalarTable(method)
            for name in self._declared or ():
                self._table.add(name, defaults, given=False)
        elif self._table.method.name != method.name:
            raise ValueError(
                f"this StepSize estimates d for {self._table.method.name}, and {method.name} cannot share it: their sums differ. "
                "Give each method a StepSize of its own."
            )

    def _register(self, options: Options) -> None:
        """Take part in an estimate with a group of these options; raises ValueError for an estimate that does not exist."""
        self._add(options)
        self._look_anew()

    def _add(self, options: Options) -> None:
        name = options["estimate"]
        if self._declared is not None and name not in self._declared:
            raise ValueError(
                f"there is no estimate {name!r}: StepSize was made with estimates={list(self._declared)}. Name it there, or "
                "give the group one of these."
            )
        names = estimates_of(options)
        if self._per_tensor:
            self._check_tensors(name, names)
        self._check_trials(options)
        for estimate in names:
            self._scalars.add(estimate, options)

    def _check_trials(self, options: Options) -> None:
        """Raise ValueError where d would be frozen before trial steps are over, with the parameters still displaced."""
        steps = self._scalars.method.tries(options)
        if self.freeze_after is not None and self.freeze_after < steps:
            raise ValueError(
                f"freeze_after={self.freeze_after}: the first {steps} steps of this run are trials and the step that puts the "
                f"parameters back. Freeze d after {steps} steps or more (some thousand are usual), or give a first d (d0), with "
                "which there are no trials."
            )

    def _look_anew(self) -> None:
        """Let the next step look at all options, and place all parameters: on all ranks, also where a new group is empty."""
        self._followed = []
        self._done.clear()
        self._trials.begin_again()
        self._roster.shards.place_anew()
        for member in self._roster:
            member._bind_groups()

    def _check_tensors(self, estimate: str, names: Sequence[str]) -> None:
        """Raise ValueError for a group with an estimate of its own, and for tensors that have one name."""
        if estimate != "default":
            raise ValueError(
                f"a group has the estimate {estimate!r}, and with estimates='per_tensor' each tensor has one of its own: leave "
                "'estimate' out."
            )
        twice = sorted({*names} & {*self._scalars.names}) or [name for name in names if names.count(name) > 1]
        if twice:
            raise ValueError(
                f"two tensors have the name {twice[0]!r}, by which estimates='per_tensor' knows them. Pass named parameters, "
                "model.named_parameters(), with names that differ also between optimizers that share a StepSize."
            )

    @property
    def _scalars(self) -> ScalarTable:
        if self._table is None:
            raise RuntimeError(
                "this StepSize has no optimizer yet: pass it to one, Prodigy(params, step_size=step_size)"
            )
        return self._table

    def _follow(self, lots: Sequence[Lots]) -> None:
        """Take the constants of the estimates from the groups, when an option has changed. lots: of each optimizer."""
        versions = [lot.version for lot in lots]
        if self._scalars.method.follows_lr:
            self._scalars.lrs.take((group, estimates_of(group)) for group in self._roster.groups())
        if versions != self._followed:
            groups = [group for member in self._roster for group in member._all_groups]
            self._scalars.follow(groups)
            shards, needs_rms = self._roster.shards, self._scalars.method.needs_rms
            if shards.placed is not None and not shards.tells_apart and any(map(needs_rms, groups)):
                raise ValueError(
                    "a group has been given an option (such as rms_cap) with which a step depends on the size of each tensor, "
                    "which is measured as the run begins. Set it back, or build the optimizer with it."
                )
            self._followed = versions

    def __repr__(self) -> str:
        """d, d·lr and the counters as they are known without waiting for another rank."""
        said = "no optimizer yet" if self._table is None else self._summary(self._roster.groups())
        return f"{type(self).__name__} ({said})"

    def _summary(self, groups: Sequence[Options]) -> str:
        """d of every estimate, d·lr over these groups, if any, steps and held steps, as of the last finished reduce."""
        counts = f"steps={self._calls}, held steps={int(self._scalars.values['held'].max())}"
        if "d" not in self._scalars.values:
            return counts
        ds = dict(zip(self._scalars.names, self._scalars.values["d"].tolist(), strict=True))
        rates = [
            ds[name] * lr
            for group in groups
            if (lr := number(group["lr"])) is not NOTHING
            for name in estimates_of(group)
        ]
        d = ", ".join(f"{name}: {value:.4g}" if len(ds) > 1 else f"{value:.4g}" for name, value in ds.items())
        if self._per_tensor:
            d = f"{_span([*ds.values()])} over {len(ds)} tensors"
        return f"d={d}, d·lr={_span(rates)}, {counts}" if rates else f"d={d}, {counts}"

    # ---------------------------------------------------------------- reading and writing

    @property
    def steps(self) -> int:
        """Steps with some lr above 0, without those that overflowed under a GradScaler."""
        return self._count.read()

    @steps.setter
    def steps(self, count: int) -> None:
        self._count.reset(count)

    @property
    def _shown_steps(self) -> Tensor:
        """`calls`, a 0-dim int64 tensor on the CPU, kept up to date."""
        return self._count.shown

    @property
    def _calls(self) -> int:
        """`steps`, perhaps with some that overflowed: nobody waits for a device to know it."""
        return self._count.count

    @property
    def d(self) -> float | dict[str, float]:
        """The current d: a float, or name -> float when there are several estimates, or one for each tensor.

        Waits for the reduce under way, but not for ever: where another rank has left out the step, it is the d of before. NaN
        for a method without d.
        """
        if "d" not in self._scalars.values:
            return math.nan
        table = self._current()
        values = dict(zip(table.names, table.lists()["d"], strict=True))
        return next(iter(values.values())) if len(values) == 1 and not self._per_tensor else values

    def _current(self) -> ScalarTable:
        """The scalars, after the reduce under way, for which nobody waits for ever, and as users have set them since."""
        if not self._reduce.is_late():
            self._finish()
            self._adopt_between_steps()
        return self._scalars

    @property
    def held_steps(self) -> int:
        """Steps in which some estimate was held because a gradient was not finite."""
        return int(self._current().values["held"].max())

    def _last_norms(self) -> dict[str, float]:
        """The norms of the gradients of the last step, by name; {} where nobody asked. Waits for the reduce under way."""
        self._current()
        return {} if self._norms is None else self._norms.last()

    def _value(self, estimate: str, name: str) -> Any:
        """One scalar of one estimate as a python number, a vector as a tuple of them."""
        table = self._current()
        return self.steps if name == "steps" else table.read(table.row(estimate), name)

    def _set_value(self, estimate: str, name: str, value: Any, *, alone: bool = True) -> None:
        """Set one scalar of one estimate, after the reduce under way. d stays there until larger is found.

        alone: False where all other scalars are set too.
        """
        self._finish()
        before = self._scalars.read(self._scalars.row(estimate), name)
        self._scalars.set(estimate, name, value, alone=alone)
        if value != before:
            self._done.clear()
            self._trials.begin_again()
            self._agreement.set_by_hand(estimate, name, value)

    def set_d(self, value: float, estimate: str | None = None) -> None:
        """Set d by hand; it stays there until a larger one is found. Do so on all ranks, between the same two steps.

        Waits for the reduce under way, and calls no collective.

        Args:
            value: the new d, finite and > 0.
            estimate: whose d. None where there is one estimate.

        Raises:
            ValueError: for a d that cannot be, or an estimate that does not exist or is not named; nothing has changed.
            RuntimeError: in the middle of a step.
        """
        self._check_settled()
        if estimate is None and len(self._scalars.names) > 1:
            raise ValueError(
                f"there are several estimates: name one, set_d(value, estimate=...): {', '.join(self._scalars.names)}"
            )
        name = self._scalars.names[0] if estimate is None else estimate
        self._scalars.row(name)  # raises for an estimate that does not exist
        self._current()
        self._set([((name, "d"), value)])

    def _adopt_between_steps(self) -> None:
        """`adopt`, but in the middle of a step, whose scalars stay: the next step does it then."""
        if self._window is None:
            self._adopt()

    def _adopt(self, replaced: bool = True) -> None:
        """Set the scalars by what users have put into the groups since the step before, and put the views back.

        Raises ValueError, with nothing changed but the views back, for what cannot be right.

        Args:
            replaced: False where no group has anything else in the place of its views.
        """
        if not (replaced or self._written):
            return
        given = [*self._written.items()]
        self._written = {}
        for member in self._roster if replaced else ():
            if found := member._given_scalars():
                given += found
                member._bind_groups()
        if given:
            self._set(given)

    def _set(self, given: Sequence[tuple[Key, Any]]) -> None:
        values = param_groups.checked(given, self._scalars)
        self._finish()
        names = self._scalars.values.keys()
        whole = {
            e for e in self._scalars.names if names <= {name for of, name in values if of == e}
        }  # nothing follows d
        for (estimate, name), value in values.items():
            if name != "steps" and estimate not in whole:
                self._scalars.check(estimate, name, value)
        for (estimate, name), value in values.items():
            if name == "steps":
                self._restore(int(value))
            else:
                self._set_value(estimate, name, value, alone=estimate not in whole)

    # ---------------------------------------------------------------- loading and saving

    def _load(self, estimate: str, saved: Options) -> None:
        """Set an estimate's scalars, and the number of steps, from a saved group that belongs to it."""
        self._settle(lose=True)
        self._scalars.load(estimate, saved)
        self._count.reset(int(saved["steps"]))
        self._followed, self._written = [], {}
        self._done.clear()
        self._trials.begin_again()
        self._losses.forget()
        self._released = False
        self._roster.forget()
        for member in self._roster:
            if member._given_scalars():
                member._bind_groups()

    def _restore(self, steps: int) -> None:
        """A framework puts a checkpoint into the groups, key by key: the optimizers look at it before it is used."""
        if steps != self.steps:
            self._settle()
            self._count.reset(steps)
            self._roster.restored = any(member._brought_by.replaces_parameters for member in self._roster)

    def _settle(self, *, lose: bool = False) -> None:
        """Be between two steps: wait for the reduce under way; RuntimeError when a step is half done.

        lose: its sums belong to a state that is given up, and need not come: another rank may never have started it.
        A step in which nothing moves yet is dropped: checkpoint tools make a step with lr 0 with each of the sharing
        optimizers by itself, and save it before they come to the next.
        """
        self._check_settled()
        self._window = None
        self._reduce.abandon() if lose else self._finish()

    def _check_settled(self) -> None:
        """Raise RuntimeError when a step is half done. Waits for nothing."""
        if self._window is not None and (self._window.moves or self._explicit):
            raise RuntimeError(
                "a step is half done: first close the window, or step every optimizer that shares the StepSize"
            )


def _span(values: Sequence[float]) -> str:
    """The value that all of these are, or the least and the greatest."""
    low, high = f"{min(values, default=0.0):.4g}", f"{max(values, default=0.0):.4g}"
    return low if low == high else f"{low} to {high}"
