"""The step of the optimizers that share an estimate, from the sums of the step before to the reduce of its own.

`StepSize._step` reads top-down. A window opens: the reduce of the step before is awaited (long done) and its sums folded into
the scalars, which gives d_k, in place; placements and buffers are seen to; sums that the method needs before the weights move
are taken by a blocking reduce. Each call of an optimizer adds its partial sums / copies to a float64 vector [n_estimates,
n_sums + 1] while it moves its weights. The window closes: one asynchronous all_reduce(SUM) of that vector starts, hidden
behind the next forward and backward. Where sums of before a step are lagged, they ride in it too, and count in the next step.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property, partial
from typing import Any, cast

import torch
from torch import Tensor

from ..comm.communicator import ShardLayout
from ..methods.base import Scalars
from ..methods.evaluation import Evaluates
from ..options import checks
from ..options.checks import Before, NonFinite, Separate, Setting, Sync
from ..sharding.shard_index import ShardIndex
from . import clipping, placing, settings
from .amp import Finding
from .diagnostics import separate_estimates
from .diagnostics.run_diagnostics import RunDiagnostics
from .estimates import Estimates, StepCount
from .exchange import rest_others
from .grad_norms import GradNorms
from .local_step import Window, packed, unpacked
from .members import Member, Roster, pieces_now
from .skipped_steps import Overflows, check_scales, decide, refuse
from .step_pieces import all_pieces, refuse_again
from .uneven_inputs import Joining


class StepSize(Estimates):
    """The estimate of D that one or several optimizers share, over all ranks of a process group.

    Args:
        estimates: Names of the separate estimates; groups choose with {"estimate": name}. None: those that the groups name.
            "per_tensor": one for each tensor, under the tensor's name where the optimizer is given named parameters, else
            "group.place". All ranks need the same tensors, unpacked: no pipelines, no flat parameters.
        process_group: Ranks over which the sums run (None: all), or a layout such as `MPILayout`.
        copies: For sharding that cannot be read from a parameter: see `ShardLayout`.
        sync: "next_step" hides the all-reduce behind the next forward and backward; "step" waits for it in the step.
        nonfinite: What a NaN or infinite gradient does. None: "hold", but a step in which a GradScaler found an overflow, on
            any rank, leaves everything as it was. "hold": d stays where it is on every rank, and only the elements with
            finite gradients train. "skip": nothing moves on any rank. "raise": NonFiniteError on all ranks in the same step,
            before anything moves. "skip" and "raise" need the sums inside the step: the step is computed twice and waits for
            a blocking reduce.
        freeze_after: Number of steps after which d stays, buffers of the estimate are dropped and (with None or "hold") the
            sums are no longer reduced.
        before: When sums count that a method needs before the weights move (DoG's ‖x - x0‖ and ‖g‖; D-Adapt SGD's ‖g0‖, in
            one step). "exact" takes them by a blocking reduce in the step; "lagged" uses those of the step before, which ride
            in its one hidden reduce, and the first step only measures. Where a framework brings a step in pieces (ZeRO) they
            are always lagged.
        grad_norms: Whether ‖g‖₁ and ‖g‖₂ of each step ride in its reduce, for logs. A method without sums then has one.
        clip_norm: The norm that the gradients of all optimizers together, over all ranks, are clipped to. A blocking reduce
            adds it up, which is that of the `before` sums where they allow it. None: they are taken as they are.

    `sync`, `nonfinite`, `freeze_after`, `before` and `clip_norm` are attributes, too, set between two steps on all ranks alike.

    Raises:
        ValueError: An argument is none of its choices, or a count is below 1; also when an attribute is set, and nothing changes.
        TypeError: process_group is none.

    Example:
        >>> import torch, dadapt_dist
        >>> step_size = dadapt_dist.StepSize()
        >>> first, second = torch.nn.Linear(4, 2), torch.nn.Linear(2, 1)
        >>> optimizers = [dadapt_dist.Prodigy(model.parameters(), step_size=step_size) for model in (first, second)]
        >>> step_size.d
        1e-06
    """

    sync: Sync = cast(Sync, Setting(checks.one_of("next_step", "step")))
    nonfinite: NonFinite | None = cast(NonFinite, Setting(checks.one_of(None, "hold", "skip", "raise")))
    freeze_after: int | None = cast(int, Setting(checks.check_count))
    before: Before = cast(Before, Setting(checks.one_of("exact", "lagged")))
    clip_norm: float | None = cast(float, Setting(checks.check_norm))

    def __init__(
        self,
        estimates: Separate = None,
        *,
        process_group: Any = None,
        copies: Any = None,
        sync: Sync = "next_step",
        nonfinite: NonFinite | None = None,
        freeze_after: int | None = None,
        before: Before = "exact",
        grad_norms: bool = False,
        clip_norm: float | None = None,
    ) -> None:
        self._table = None
        self.sync, self.nonfinite, self.freeze_after, self.before = sync, nonfinite, freeze_after, before
        self.clip_norm = clip_norm
        self._layout = (
            ShardLayout() if process_group is None and copies is None else ShardLayout.of(process_group, copies)
        )
        self._count = StepCount()
        self._roster = Roster(self._layout)
        self._per_tensor = isinstance(estimates, str) and estimates == "per_tensor"
        self._declared = None if self._per_tensor else checks.check_names("estimates", estimates)
        self._norms = GradNorms() if checks.check_flag("grad_norms", grad_norms) else None
        self._window: Window | None = None
        self._explicit = self._released = False
        self._done: set[str] = set()
        self._launched: Window | None = None  # the step whose sums are under way
        self._still = 0  # calls of step() in a row in which nothing could move
        self._followed, self._written = [], {}

    def _accept(self, name: str, value: Any) -> None:
        """Take note of a setting that is about to change; ValueError for one that the optimizers cannot follow."""
        if self._table is not None:
            settings.check(self, self._table.method, name, value)
            self._agreement.begin_settings([value if name == own else getattr(self, own) for own in settings.SHARED])

    # ---------------------------------------------------------------- what a step needs

    @cached_property
    def _shards(self) -> ShardIndex:
        """Where the parameters live."""
        return self._roster.shards

    @cached_property
    def _diagnostics(self) -> RunDiagnostics:
        """What is said of the run."""
        return RunDiagnostics()

    @cached_property
    def _joining(self) -> Joining:
        """The part in torch's `Join`."""
        return Joining(self)

    @cached_property
    def _overflows(self) -> Overflows:
        return Overflows()

    # ---------------------------------------------------------------- one step

    @contextmanager
    def window(self) -> Iterator["StepSize"]:
        """Bracket the pieces of one step: every `step()` of the sharing optimizers inside belongs to it.

        No `step()` inside: no collective. An exception inside: the window is dropped without a collective.

        Raises:
            RuntimeError: A window is open already.

        Example:
            >>> with step_size.window():  # doctest: +SKIP
            ...     generator_optimizer.step()
            ...     encoder_optimizer.step()
        """
        if self._explicit or self._window is not None:
            raise RuntimeError("a window of this StepSize is already open: windows do not nest")
        self._explicit = True
        self._reduce.begin()
        try:
            yield self
        except BaseException:
            self._window = None
            raise
        finally:
            self._explicit = False
        self._close_if_open()

    def _step(self, member: Member, found: Finding | None, run: Callable[[Window], None]) -> None:
        """Take one optimizer's part of a step. Without an explicit window, the last of the sharing optimizers ends the step.

        found: what a GradScaler has found in the optimizer's gradients; None without one. run: takes the optimizer's part of
        the step on this rank, and adds its sums to the window's.
        """
        window = self._window_of(member, found)  # finish the step before, prepare, take the sums that come first
        window.gave = window.gave or (self._scalars.method.wants_loss and member.loss is not None)
        try:
            run(window)
        except BaseException:
            self._window = None
            raise
        if self._agreement.witness.is_looking:
            self._agreement.witness.look()
        window.arrived |= (pieces := pieces_now(member))
        window.missing -= pieces
        if not self._explicit and self._is_complete(window):
            self._close(window)  # launch the reduce

    def _window_of(self, member: Member, found: Finding | None) -> Window:
        """The window that this call belongs to: the open one, or one that it opens."""
        window = self._window
        if window is None:
            return self._open(found)
        if not self._explicit and not pieces_now(member).isdisjoint(window.arrived):
            self._close_early(window)
            return self._open(found)
        if window.arrived:
            window.leave_out(self._agreed(found))
        return window

    def _open(self, found: Finding | None) -> Window:
        self._finish()
        if uses_loss := self._scalars.method.wants_loss:
            self._losses.refuse_late()
        self._prepare()
        first, lagged = self._wanted(), self._is_lagged()
        phases = (*first, "after") if lagged else ("after",)
        window = Window(self._scalars.no_sums(phases), phases, missing=self._expected())
        window.launches = bool(lagged and first) or (self._scalars.method.after is not None and not self.frozen)
        window.launches |= self._rms is not None
        if self._norms is not None:
            self._norms.begin(self._scalars.device)
        window.gave = uses_loss and any(member.loss is not None for member in self._roster)
        window.leave_out(self._agreed(found))
        self._clip_scale = None
        rides = self.clip_norm is not None and "before" in first and not lagged and clipping.rides(self._scalars)
        if self.clip_norm is not None and not rides:
            self._clip_scale = clipping.scale_of(self)
        before = self._measure(window, () if lagged else first, rides)
        if self.nonfinite in ("skip", "raise"):
            self._decide(window)
            if window.skipped or window.fault is not None:
                self._put_back(before)
            refuse(window, self.steps, self.nonfinite)
        elif uses_loss and not window.gave:
            self._losses.check_alone(self, window)
        self._window = window
        return window

    def _prepare(self) -> None:
        """See to all that a step needs: options, placements, buffers. What went before is logged where there is reason to."""
        lots = [member._option_lots() for member in self._roster]
        self._adopt(any(lot.replaced for lot in lots))
        self._roster.accept_restored()
        if not self._explicit:
            self._reduce.begin()
        if self._still or self._calls >= self._diagnostics.due:
            self._diagnostics.look(self)
        self._reduce.step = self._calls
        self._follow(lots)
        if not self._roster.is_ready():
            if not self._roster.is_placed():
                placing.place(self)
            self._roster.prepare()
        self._release()
        if self._joining.modules:
            self._joining.look_for_join()

    def _release(self) -> None:
        """Drop the buffers that serve the estimate alone, once it is frozen."""
        if self.frozen and not self._released:
            self._scalars.freeze()
            for member in self._roster:
                member._release_statistics()
        self._released = self.frozen

    def _wanted(self) -> tuple[str, ...]:
        """The phases before the weights move whose sums are wanted, the same on all ranks.

        Waits for the device until those are done that are taken for once. A frozen estimate wants what it cannot begin without.
        """
        table, found = self._scalars, []
        for phase in ("start", "before"):
            if phase in self._done or (self.frozen and phase == "before" and table.always_before):
                continue
            found.append(phase) if table.wants(phase) else self._done.add(phase)
        return tuple(found)

    def _is_lagged(self) -> bool:
        """Return whether `before` sums ride in the step's one reduce and count in the step that follows."""
        in_pieces = (member for member in self._roster if member._brought_by.in_pieces)
        return self.before == "lagged" or any(len(all_pieces(member)) > 1 for member in in_pieces)

    def _measure(self, window: Window, phases: Sequence[str], rides: bool) -> Scalars:
        """Take sums that the coming update needs, by a blocking reduce each; the scalars as they were without them.

        rides: whether the norm to clip by does with those of `before`.
        """
        table = self._scalars
        overflowed = window.overflow is not None and not table.always_before and bool(window.overflow)
        if not phases or overflowed:
            return {}
        check_scales(self._roster)
        before = {name: value.clone() for name, value in table.values.items()}
        for phase in phases:
            tag = 0 if table.method.after is not None else self._tag(self._some_move())
            if phase == "before" and rides:
                sums, self._clip_scale = clipping.reduce_with_norm(self, window, tag)
            else:
                sums = window.usable(self._roster.measured((phase,)))
                if table.names_of(phase):
                    self._mark()
                    sums = self._reduce.now(sums, tag)
            if table.method.wants_loss:
                self._losses.check(table, sums, (phase,), window.gave)
            clean, own = table.apply(sums, (phase,))
            if phase == "before" and table.method.after is None:
                window.measured = sums
                self._note(clean, own, self._some_move(), window)
        return before

    def _decide(self, window: Window) -> None:
        """Take the sums of this step before anything moves: all ranks skip it, or none does."""
        if window.measured is not None:
            decide(window, window.measured, self._reduce)
            return
        check_scales(self._roster)
        self._mark()
        squares = None if self._rms is None else self._rms.local.clone()
        sums = torch.stack([member._rehearse(window.phases, squares) for member in self._roster]).sum(0)
        reduced = self._reduce.now(packed(sums, squares, self._norms))
        reduced, window.squares, window.norms = unpacked(reduced, sums.shape, self._norms)
        if self._norms is not None and window.norms is not None:
            self._norms.take(window.norms)
        if self._scalars.method.wants_loss:
            window.fault = self._losses.fault(self._scalars, reduced, window.phases, window.gave)
        decide(window, reduced, self._reduce)

    def _put_back(self, before: Scalars) -> None:
        """A step that is skipped leaves no scalar behind but the count of such steps: its gradients were not the first."""
        kept = set() if self.nonfinite == "raise" else {"held"}  # of which an error tells, and which is no step
        self._scalars.put({name: value for name, value in before.items() if name not in kept})
        self._done.clear()

    def _close_early(self, window: Window) -> None:
        """Close before a piece that comes again: right when the optimizer of those still missing is gone."""
        window.missing.clear()
        if self._is_complete(window):
            self._close(window)
            return
        self._window = None
        refuse_again(self._roster)

    def _expected(self) -> set[int]:
        """Keys of all pieces that make up a step."""
        return set().union(
            *(all_pieces(member) if member._brought_by.in_pieces else {id(member)} for member in self._roster)
        )

    def _is_complete(self, window: Window) -> bool:
        """Return whether all pieces of all optimizers have come, also of one that has joined since the step began."""
        if not window.missing:
            window.missing = self._expected() - window.arrived
        return not window.missing

    def _close_if_open(self) -> None:
        if self._window is not None:
            self._close(self._window)

    def _close(self, window: Window) -> None:
        self._window = None
        self._collect()
        table, frozen, sumless = self._scalars, self.frozen, self._scalars.is_sumless
        if not self._trials.over:
            self._trials.put_back(table.method, table.values, [*self._roster.groups()], self._roster, window)
        if type(table.method).rest is not Evaluates.rest:
            rest_others(self._roster, window)
        self._count.add(window.moves, window.overflows)
        self._still = 0 if window.moves else self._still + 1
        if self._calls == separate_estimates.LOOK_AT:
            separate_estimates.look(self)
        if (frozen or sumless) and not window.skipped:
            table.count(self._roster.moving(table.names, window.moves), window.overflows)
        if not window.skipped:
            table.advance(partial(self._roster.moving, table.names, window.moves), window.overflows)
        if window.launches or (self._norms is not None and window.norms is None):
            self._launched = window
            if window.reduced is None or not window.launches:
                self._mark()
                squares = None if self._rms is None else self._rms.local
                self._reduce.launch(
                    packed(window.usable(window.sums), squares, self._norms), tag=self._tag(window.moves)
                )
            else:
                self._reduce.put(window.reduced)
            if self.sync == "step" or self._reduce.ranks == 1:
                self._finish()
        if not window.launches and sumless:  # nobody knows of the other ranks' gradients
            sums = window.usable(window.sums) if window.reduced is None else window.reduced
            self._fold(sums, window)

    def _mark(self) -> None:
        """Let the coming reduce tell the other ranks of this one's options and of its model's steps."""
        if self._reduce.ranks > 1:
            placing.mark(self)

    def _tag(self, moves: bool) -> int:
        """A rank that counts a step which the others do not count would freeze at another time: they have to agree on it."""
        return int(self.freeze_after is not None and moves)

    def _some_move(self) -> bool:
        """Return whether some group of the sharing optimizers has an lr above 0."""
        return any(member._option_lots().moves for member in self._roster)

    @property
    def frozen(self) -> bool:
        """Whether d stays for good: True from step `freeze_after` on."""
        return self.freeze_after is not None and self._count.reached(self.freeze_after)

    def _agreed(self, found: Finding | None) -> Tensor | None:
        """Return whether any rank's scaler found an overflow that we leave out. Collective, with a scaler."""
        if found is None or self.nonfinite is not None:
            return None
        return self._overflows.agree(found, self._reduce, self._scalars.device)

    def _finish(self) -> None:
        """Wait for the reduce under way, if any, and move the scalars by it. No collective: one rank alone may call it."""
        sums = self._reduce.take()
        self._collect()
        window, self._launched = self._launched, None
        if sums is not None and window is not None:
            sums, squares, norms = unpacked(sums.to(self._scalars.device), window.sums.shape, self._norms)
            squares = squares if window.reduced is None or window.skipped else window.squares
            if self._rms is not None and squares is not None:
                self._rms.take(squares)
            if self._norms is not None and norms is not None:
                self._norms.take(norms * torch.nan if window.skipped else norms, window.overflows)
            if window.launches:
                self._fold(sums, window)

    def _fold(self, sums: Tensor, window: Window) -> None:
        """Move the scalars by the global sums of a step."""
        if self._scalars.method.wants_loss and window.reduced is None:
            self._losses.note(self._scalars, sums, window.phases, window.gave)
        clean, own = self._scalars.apply(sums, window.phases)
        self._note(clean, own, window.moves, window)

    def _note(self, clean: Tensor, sums: Tensor, moves: bool, window: Window) -> None:
        """Let the sums of a step be looked at, where they may be worth it."""
        told, differ = self._diagnostics, self._reduce.differ
        if told.wants_sums or not all(clean.tolist()) or (differ is not None and bool(differ.any())):
            told.note(sums, self._scalars.values["held"], differ, moves, window.overflows)

    def _collect(self) -> None:
        """Keep for the next step what somebody has written into views of the scalars, and take it out of them."""
        if self._table is not None:
            self._written |= self._table.written()
        steps = self._count.written()
        if steps is not None:
            self._written["", "steps"] = steps

    def __getstate__(self) -> dict[str, Any]:
        self._settle()
        return {name: value for name, value in self.__dict__.items() if name not in ("_shards", "_roster", "_joining")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._roster = Roster(self._layout)
