"""The estimates of a StepSize: which groups take part, and how their scalars are read and set."""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from copy import deepcopy
from typing import Any

from ..comm.async_all_reduce import Reduce
from ..methods.base import Method, Options
from ..sharding.shard_index import Roster
from .amp_overflow import StepCount
from .estimate_state import ScalarTable
from .rank_agreement import Agreement


class Estimates(ABC):
    """The scalars of the estimates of D, and the groups and optimizers that share them; `StepSize` moves them."""

    roster: Roster
    table: ScalarTable | None
    reduce: Reduce
    agreement: Agreement
    _declared: tuple[str, ...] | None
    _count: StepCount
    _followed: list[int]  # versions of the options that the scalars follow
    _done: set[str]  # phases whose sums no estimate wants any more

    @abstractmethod
    def finish(self) -> None:
        """Wait for the reduce under way, if any, and move the scalars by it."""

    # ---------------------------------------------------------------- joining

    def join(self, method: Method, defaults: Options, groups: Sequence[Options]) -> None:
        """Take part with these groups; raises ValueError, and stays as it was, when one of them cannot."""
        self.finish()
        before = deepcopy(self.table)
        try:
            self.bind(method, defaults)
            for group in groups:
                self.register(group)
        except ValueError:
            self.table = before
            for member in self.roster:
                member.bind_groups()
            raise

    def bind(self, method: Method, defaults: Options) -> None:
        """Take the method of the first optimizer; another method later raises ValueError."""
        if self.table is None:
            self.table = ScalarTable(method)
            for name in self._declared or ():
                self.table.add(name, defaults, given=False)
        elif self.table.method.name != method.name:
            raise ValueError(
                f"this StepSize estimates d for {self.table.method.name}, and {method.name} cannot share it: their sums differ. "
                "Give each method a StepSize of its own."
            )

    def register(self, options: Options) -> None:
        """Take part in an estimate with a group of these options; raises ValueError for an estimate that does not exist."""
        name = options["estimate"]
        if self._declared is not None and name not in self._declared:
            raise ValueError(
                f"there is no estimate {name!r}: StepSize was made with estimates={list(self._declared)}. Name it there, or "
                "give the group one of these."
            )
        self.finish()
        self._followed = []
        self._done.clear()
        self.scalars.add(name, options)
        self.roster.place_anew()  # on all ranks, also on those whose share of the group is empty
        for member in self.roster:
            member.bind_groups()

    @property
    def scalars(self) -> ScalarTable:
        if self.table is None:
            raise RuntimeError(
                "this StepSize has no optimizer yet: pass it to one, Prodigy(params, step_size=step_size)"
            )
        return self.table

    def _follow(self) -> None:
        """Take the constants of the estimates from the groups, when an option has changed."""
        versions = [member.lots().version for member in self.roster]
        if versions != self._followed:
            self.scalars.follow(group for member in self.roster for group in member.groups)
            self._followed = versions

    # ---------------------------------------------------------------- reading and writing

    @property
    def steps(self) -> int:
        """Steps with some lr above 0, without those that overflowed under a GradScaler."""
        return self._count.read()

    @steps.setter
    def steps(self, count: int) -> None:
        self._count = StepCount(count)

    @property
    def calls(self) -> int:
        """`steps`, perhaps with some that overflowed: nobody waits for a device to know it."""
        return self._count.count

    @property
    def d(self) -> float | dict[str, float]:
        """The current d: a float, or name -> float when there are several estimates.

        Waits for the reduce under way, but not for ever: where another rank has left out the step, it is the d of before. NaN
        for a method without d.
        """
        if "d" not in self.scalars.values:
            return math.nan
        values = {name: self.value(name, "d") for name in self.scalars.names}
        return next(iter(values.values())) if len(values) == 1 else values

    def current(self) -> ScalarTable:
        """The scalars, after the reduce under way, for which nobody waits for ever."""
        if not self.reduce.is_late():
            self.finish()
        return self.scalars

    @property
    def held_steps(self) -> int:
        """Steps in which some estimate was held because a gradient was not finite."""
        return int(self.current().values["held"].max())

    def value(self, estimate: str, name: str) -> Any:
        """One scalar of one estimate as a python number, a vector as a tuple of them."""
        if name == "steps":
            return self.steps
        table = self.current()
        return table.read(table.row(estimate), name)

    def set_value(self, estimate: str, name: str, value: float, *, alone: bool = True) -> None:
        """Set one scalar of one estimate, after the reduce under way. d stays there until larger is found.

        alone: False where all other scalars are set too.
        """
        self.finish()
        before = self.scalars.read(self.scalars.row(estimate), name)
        self.scalars.set(estimate, name, value, alone=alone)
        if value != before:
            self.agreement.set_by_hand(estimate, name, value)
