"""When does a step begin and end, and how do the sums of all ranks become the next d?

A window opens: the reduce of the step before is awaited (long done) and the rule applied, which gives d_k, in place. Each
piece: an optimizer adds its partial sums / copies to a float64 vector [n_estimates, n_sums + 1]. The window closes: one
asynchronous all_reduce(SUM) of that vector starts, hidden behind the next forward and backward.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

from . import arrival, company, placing
from .agreement import Agreement
from .held import HeldReport
from .joining import Joining
from .layout import ShardLayout
from .methods.base import Method, Options
from .options import NonFinite, Sync, check_choice, check_freeze_after, check_names
from .reduce import Reduce
from .roster import Member, Roster
from .scalars import ScalarTable
from .window import Window, decide, measure, refuse


class StepSize:
    """The estimate of D that one or several optimizers share, over all ranks of a process group.

    estimates: names of the separate estimates; groups choose with {"estimate": name}. None: those that the groups name.
    process_group: ranks over which the sums run (None: all), or a layout such as MPILayout. copies: see `ShardLayout`.
    sync: "next_step" hides the all-reduce behind the next forward and backward; "step" waits for it in the step.
    nonfinite: what a NaN or infinite gradient does. "hold": d stays where it is on every rank, and only the elements
    with finite gradients train. "skip": nothing moves on any rank. "raise": NonFiniteError on all ranks in the same
    step, before anything moves. "skip" and "raise" need the sums inside the step: the step is computed twice and waits for
    a blocking reduce.
    freeze_after: number of steps after which d stays, buffers of the estimate are dropped and (with "hold") no collective
    runs.
    """

    def __init__(
        self,
        estimates: Sequence[str] | None = None,
        *,
        process_group: Any = None,
        copies: Any = None,
        sync: Sync = "next_step",
        nonfinite: NonFinite = "hold",
        freeze_after: int | None = None,
    ) -> None:
        check_choice("sync", sync, ("next_step", "step"))
        check_choice("nonfinite", nonfinite, ("hold", "skip", "raise"))
        check_names("estimates", estimates)
        check_freeze_after(freeze_after)
        self.layout = ShardLayout.of(process_group, copies)
        self.sync, self.nonfinite, self.freeze_after = sync, nonfinite, freeze_after
        self.steps = 0
        self.roster = Roster(self.layout)
        self.table: ScalarTable | None = None
        self.joining = Joining(self)
        company.join(self)
        self._declared = None if estimates is None else tuple(estimates)
        self._window: Window | None = None
        self._explicit = self._early_done = self._released = False
        self.reduce, self.held, self.agreement = Reduce(self.layout), HeldReport(), Agreement()

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
        self.scalars.add(name, options)
        for member in self.roster:
            member.bind_groups()

    @property
    def scalars(self) -> ScalarTable:
        if self.table is None:
            raise RuntimeError(
                "this StepSize has no optimizer yet: pass it to one, Prodigy(params, step_size=step_size)"
            )
        return self.table

    # ---------------------------------------------------------------- one step

    @contextmanager
    def window(self) -> Iterator["StepSize"]:
        """Bracket the pieces of one step: every `step()` of the sharing optimizers inside belongs to it.

        No `step()` inside: no collective. An exception inside: the window is dropped without a collective.
        """
        if self._explicit or self._window is not None:
            raise RuntimeError("a window of this StepSize is already open: windows do not nest")
        self._explicit = True
        self.reduce.begin()
        try:
            yield self
        except BaseException:
            self._window = None
            raise
        finally:
            self._explicit = False
        self._close_if_open()

    @contextmanager
    def piece(self, member: Member) -> Iterator[Window]:
        """Bracket one optimizer's part of a step. Without an explicit window, the last of the sharing optimizers closes it."""
        window = self._window or self._open()
        pieces = arrival.delivered(member)
        if not self._explicit and not pieces.isdisjoint(window.arrived):
            self._close_early(window)
            window = self._open()
        try:
            yield window
        except BaseException:
            self._window = None
            raise
        self.agreement.witness.look()
        window.arrive(pieces)
        if not self._explicit and window.is_complete(self.roster):
            self._close(window)

    def _close_early(self, window: Window) -> None:
        """Close before a piece that comes again: right when the optimizer of those still missing is gone."""
        if window.is_complete(self.roster, recount=True):
            self._close(window)
            return
        self._window = None
        arrival.refuse_again(self.roster)

    @property
    def frozen(self) -> bool:
        """Does d stay for good? True from step `freeze_after` on."""
        return self.freeze_after is not None and self.steps >= self.freeze_after

    def _open(self) -> Window:
        self.finish()
        self.roster.accept_restored()
        if not self._explicit:
            self.reduce.begin()
        self.held.say(self.steps, self.agreement.names())
        self.reduce.step = self.steps
        self.scalars.follow(group for member in self.roster for group in member.groups)
        if not self.roster.is_placed():
            placing.place(self)
        self.joining.look_for_join()
        window, table = Window(self.scalars.no_sums()), self.scalars
        self.roster.prepare(release=self.frozen and not self._released)
        self._released = self.frozen
        window.missing = arrival.expected(self.roster)
        if table.method.early_sums and not self._early_done:
            window.deferred = any(arrival.in_pieces(member) for member in self.roster)
            if not window.deferred:
                placing.mark(self)
                self._early_done = measure(self.roster, self.reduce, table)
        if self.nonfinite != "hold":
            placing.mark(self)
            decide(window, self.roster, self.reduce)
            refuse(window, self.steps, self.nonfinite)
        self._window = window
        return window

    def _close_if_open(self) -> None:
        if self._window is not None:
            self._close(self._window)

    def _catch_up(self, window: Window) -> None:
        with window.kept.put_back():
            self._early_done = measure(self.roster, self.reduce, self.scalars)
            for member in self.roster:
                window.sums += member.catch_up()

    def _close(self, window: Window) -> None:
        self._window = None
        if window.deferred:
            self._catch_up(window)
        self.steps += window.moves
        company.look(self)
        if self.freeze_after is not None and self.steps - window.moves >= self.freeze_after:
            self.scalars.values["k"].add_(window.moves and not window.skipped)
            return
        self.held.idle.expect(window.moves)
        if window.reduced is None:
            placing.mark(self)
            # A rank that counts a step which the others do not count would freeze at another time.
            self.reduce.launch(window.sums, tag=int(window.moves and self.freeze_after is not None))
        else:
            self.reduce.put(window.reduced)
        if self.sync == "step" or self.layout.world_size == 1:
            self.finish()

    def finish(self) -> None:
        """Wait for the reduce under way, if any, and move the scalars by it. No collective: one rank alone may call it."""
        sums = self.reduce.take()
        if sums is not None:
            self.scalars.apply(sums.to(self.scalars.device))
            self.held.note(self.scalars.values["held"], self.reduce.differ, sums)

    # ---------------------------------------------------------------- reading and writing

    @property
    def d(self) -> float | dict[str, float]:
        """The current d: a float, or name -> float when there are several estimates. Waits for the reduce under way."""
        values = {name: self.value(name, "d") for name in self.scalars.names}
        return next(iter(values.values())) if len(values) == 1 else values

    @property
    def held_steps(self) -> int:
        """Steps in which some estimate was held because a gradient was not finite."""
        self.finish()
        return int(self.scalars.values["held"].max())

    def value(self, estimate: str, name: str) -> float | int:
        """One scalar of one estimate as a python number."""
        if name == "steps":
            return self.steps
        self.finish()
        return float(self.scalars.values[name][self.scalars.row(estimate)])

    def set_value(self, estimate: str, name: str, value: float) -> None:
        """Set one scalar of one estimate, after the reduce under way."""
        self.finish()
        self.scalars.values[name][self.scalars.row(estimate)] = value

    def load(self, estimate: str, saved: Options) -> None:
        """Set an estimate's scalars, and the number of steps, from a saved group that belongs to it."""
        self.settle(lose=True)
        self.scalars.load(estimate, saved)
        self.steps = int(saved["steps"])
        self._early_done = self._released = False
        self.roster.forget()

    def restore(self, steps: int) -> None:
        """A framework puts a checkpoint into the groups, key by key: the optimizers look at it before it is used."""
        if steps != self.steps:
            self.settle()
            self.steps = steps
            self.roster.restored = any(member.delivery.replaces_parameters for member in self.roster)

    def settle(self, *, lose: bool = False) -> None:
        """Be between two steps: wait for the reduce under way; RuntimeError when a step is half done.

        lose: its sums belong to a state that is given up, and need not come: another rank may never have started it.
        A step in which nothing moves yet is dropped: checkpoint tools make a step with lr 0 with each of the sharing
        optimizers by itself, and save it before they come to the next.
        """
        if self._window is not None and (self._window.moves or self._explicit):
            raise RuntimeError("a step is half done: close the window, or step every sharing optimizer, then save")
        self._window = None
        self.reduce.abandon() if lose else self.finish()

    def __getstate__(self) -> dict[str, Any]:
        self.settle()
        return self.__dict__ | {"roster": None, "joining": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.roster, self.joining = Roster(self.layout), Joining(self)
