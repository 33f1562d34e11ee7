"""When does a step begin and end, and how do the sums of all ranks become the next d?

A window opens: the reduce of the step before is awaited (long done) and the rule applied, which gives d_k, in place. Each
piece: an optimizer adds its partial sums / copies to a float64 vector [n_estimates, n_sums + 1]. The window closes: one
asynchronous all_reduce(SUM) of that vector starts, hidden behind the next forward and backward.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from ..comm.async_all_reduce import Reduce
from ..comm.communicator import ShardLayout
from ..methods.base import Options, Scalars
from ..options.checks import NonFinite, Sync, check_choice, check_freeze_after, check_names
from ..sharding.shard_index import Member, Roster
from . import placing, step_pieces
from .amp import Finding
from .amp_overflow import Overflows, StepCount
from .diagnostics import separate_estimates
from .diagnostics.advice import Advice
from .diagnostics.nonfinite import HeldReport
from .estimates import Estimates
from .option_sets import STAYS
from .rank_agreement import Agreement
from .step_window import Window, decide, measure, refuse
from .uneven_inputs import Joining


class StepSize(Estimates):
    """The estimate of D that one or several optimizers share, over all ranks of a process group.

    estimates: names of the separate estimates; groups choose with {"estimate": name}. None: those that the groups name.
    process_group: ranks over which the sums run (None: all), or a layout such as MPILayout. copies: see `ShardLayout`.
    sync: "next_step" hides the all-reduce behind the next forward and backward; "step" waits for it in the step.
    nonfinite: what a NaN or infinite gradient does. None: "hold", but a step in which a GradScaler found an overflow, on
    any rank, leaves everything as it was. "hold": d stays where it is on every rank, and only the elements with finite
    gradients train. "skip": nothing moves on any rank. "raise": NonFiniteError on all ranks in the same step, before
    anything moves. "skip" and "raise" need the sums inside the step: the step is computed twice and waits for a blocking
    reduce.
    freeze_after: number of steps after which d stays, buffers of the estimate are dropped and (with None or "hold") the
    sums are no longer reduced.
    """

    def __init__(
        self,
        estimates: Sequence[str] | None = None,
        *,
        process_group: Any = None,
        copies: Any = None,
        sync: Sync = "next_step",
        nonfinite: NonFinite | None = None,
        freeze_after: int | None = None,
    ) -> None:
        check_choice("sync", sync, ("next_step", "step"))
        check_choice("nonfinite", nonfinite, (None, "hold", "skip", "raise"))
        self.layout = ShardLayout.of(process_group, copies)
        self.sync, self.nonfinite, self.freeze_after = sync, nonfinite, check_freeze_after(freeze_after)
        self._count, self._overflows = StepCount(), Overflows()
        self.roster = Roster(self.layout)
        self.table = None
        self.joining = Joining(self)
        separate_estimates.join(self)
        self._declared = check_names("estimates", estimates)
        self._window: Window | None = None
        self._explicit = self._early_done = self._released = False
        self.reduce, self.held, self.agreement = Reduce(self.layout), HeldReport(), Agreement()
        self.advice = Advice()
        self._followed, self._written = [], {}

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
    def piece(self, member: Member, found: Finding | None = None) -> Iterator[Window]:
        """Bracket one optimizer's part of a step. Without an explicit window, the last of the sharing optimizers closes it.

        found: what a GradScaler has found in the optimizer's gradients; None without one.
        """
        window = self._window or self._open(found)
        pieces = step_pieces.delivered(member)
        if not self._explicit and not pieces.isdisjoint(window.arrived):
            self._close_early(window)
            window = self._open(found)
        elif window.arrived:
            window.leave_out(self._agreed(found))
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
        step_pieces.refuse_again(self.roster)

    @property
    def frozen(self) -> bool:
        """Does d stay for good? True from step `freeze_after` on."""
        return self.freeze_after is not None and self._count.reached(self.freeze_after)

    def _agreed(self, found: Finding | None) -> Tensor | None:
        """Has a scaler, of any rank, found an overflow that is ours to leave out? A collective call, with a scaler."""
        if found is None or self.nonfinite is not None:
            return None
        return self._overflows.agree(found, self.reduce, self.scalars.device)

    def _open(self, found: Finding | None) -> Window:
        self.finish()
        lots = [member.lots() for member in self.roster]
        self.adopt(any(lot.replaced for lot in lots))
        self.roster.accept_restored()
        if not self._explicit:
            self.reduce.begin()
        self.held.say(self.calls, self.agreement.names())
        self.advice.look(self, self.held.count)
        self.reduce.step = self.calls
        self._follow(lots)
        if not self.roster.is_placed():
            placing.place(self)
        self.joining.look_for_join()
        window = Window(self.scalars.no_sums())
        self.roster.prepare(release=self.frozen and not self._released)
        self._released = self.frozen
        window.missing = step_pieces.expected(self.roster)
        window.leave_out(self._agreed(found))
        before = self._measure(window)
        if self.nonfinite in ("skip", "raise"):
            placing.mark(self)
            decide(window, self.roster, self.reduce)
            if window.skipped:
                self._put_back(before)
            refuse(window, self.steps, self.nonfinite)
        self._window = window
        return window

    def _measure(self, window: Window) -> Scalars:
        """Take the sums that the first update needs before it; the scalars as they were without them, where there are such."""
        table = self.scalars
        if not table.method.early_sums or self._early_done:
            return {}
        window.deferred = any(step_pieces.in_pieces(member) for member in self.roster)
        if window.deferred or (window.overflow is not None and bool(window.overflow)):
            return {}
        before = {name: value.clone() for name, value in table.values.items()}
        placing.mark(self)
        self._early_done = measure(self.roster, self.reduce, table)
        return before

    def _put_back(self, before: Scalars) -> None:
        """A step that is skipped leaves no scalar behind: its gradients were not the first."""
        self.scalars.put(before)
        self._early_done = self._has_early_sums()

    def _has_early_sums(self) -> bool:
        """Has every estimate the sums that it needs before its first update? Waits for the device."""
        return not bool(self.scalars.method.needs_early_sums(self.scalars.values).any())

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
        frozen = self.frozen
        self._count.add(window.moves, window.overflows)
        separate_estimates.look(self)
        if frozen:
            if not window.skipped:
                self.scalars.count(self._moving(window), window.overflows)
            return
        self.held.idle.expect(window.moves, window.overflows)
        if window.reduced is None:
            placing.mark(self)
            # A rank that counts a step which the others do not count would freeze at another time.
            self.reduce.launch(window.usable_sums(), tag=int(window.moves and self.freeze_after is not None))
        else:
            self.reduce.put(window.reduced)
        if self.sync == "step" or self.layout.world_size == 1:
            self.finish()

    def _moving(self, window: Window) -> list[bool]:
        """For each estimate: has a group of it an lr above 0? All that no group of this rank has go with the step."""
        names = self.scalars.names
        if len(names) == 1 or not window.moves:
            return [window.moves] * len(names)
        pairs = [pair for member in self.roster for pair in zip(member.groups, member.lots().of, strict=True)]
        here = {group["estimate"] for group, _ in pairs}
        moving = {group["estimate"] for group, lot in pairs if lot != STAYS}
        return [name in moving or name not in here for name in names]

    def finish(self) -> None:
        """Wait for the reduce under way, if any, and move the scalars by it. No collective: one rank alone may call it."""
        sums = self.reduce.take()
        self._collect()
        if sums is not None:
            self.scalars.apply(sums.to(self.scalars.device))
            self.held.note(self.scalars.values["held"], self.reduce.differ, sums)

    def _collect(self) -> None:
        """Keep for the next step what somebody has written into views of the scalars, and take it out of them."""
        if self.table is not None:
            self._written |= self.table.written()
        steps = self._count.written()
        if steps is not None:
            self._written["", "steps"] = steps

    # ---------------------------------------------------------------- loading and saving

    def load(self, estimate: str, saved: Options) -> None:
        """Set an estimate's scalars, and the number of steps, from a saved group that belongs to it."""
        self.settle(lose=True)
        self.scalars.load(estimate, saved)
        self._count.reset(int(saved["steps"]))
        self._followed, self._written = [], {}
        self._early_done, self._released = self._has_early_sums(), False
        self.roster.forget()
        for member in self.roster:
            if member.given_scalars():
                member.bind_groups()

    def restore(self, steps: int) -> None:
        """A framework puts a checkpoint into the groups, key by key: the optimizers look at it before it is used."""
        if steps != self.steps:
            self.settle()
            self._count.reset(steps)
            self.roster.restored = any(member.delivery.replaces_parameters for member in self.roster)

    def settle(self, *, lose: bool = False) -> None:
        """Be between two steps: wait for the reduce under way; RuntimeError when a step is half done.

        lose: its sums belong to a state that is given up, and need not come: another rank may never have started it.
        A step in which nothing moves yet is dropped: checkpoint tools make a step with lr 0 with each of the sharing
        optimizers by itself, and save it before they come to the next.
        """
        self.check_settled()
        self._window = None
        self.reduce.abandon() if lose else self.finish()

    def check_settled(self) -> None:
        """Raise RuntimeError when a step is half done. Waits for nothing."""
        if self._window is not None and (self._window.moves or self._explicit):
            raise RuntimeError("a step is half done: close the window, or step every sharing optimizer, then save")

    def __getstate__(self) -> dict[str, Any]:
        self.settle()
        return self.__dict__ | {"roster": None, "joining": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.roster, self.joining = Roster(self.layout), Joining(self)
