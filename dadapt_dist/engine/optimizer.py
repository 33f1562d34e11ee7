"""The torch optimizer made of a method, a layout and a step size: one pass over the parameters a step."""

import sys
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from itertools import chain
from operator import is_
from typing import Any, get_args

import torch
from torch import Tensor
from torch._compile import _disable_dynamo
from torch.nn import Parameter
from torch.optim import Optimizer

from ..kernels import KERNELS, Backend, check_available
from ..methods import METHODS, Buffer, Method
from ..methods.base import Dtypes
from ..methods.evaluation import Evaluates
from ..options.checks import check_choice, check_options
from ..sharding import registry
from ..sharding.dtensor import is_dtensor
from ..sharding.framework import NO_FRAMEWORK, FrameworkAdapter
from . import amp, amp_alone, log_every, modes, param_groups, per_tensor, torch_compile
from .amp import Finding
from .base_optimizer import BaseOptimizer
from .estimate_state import TENSORS
from .exchange import rest
from .local_step import Entries, Window, measure, squares, sweep
from .members import Look
from .option_sets import Lots
from .readings import Readings
from .state import buffers, param_state, replaced_groups
from .state import state_dict as saved_state
from .state.validation import FORMAT, TRAIN
from .step_plan import PlanCache
from .step_size import StepSize
from .trials import put_back
from .uneven_inputs import MayJoin

COPIED = ("_method", "step_size", "_dtypes", "_backend", "_unmoved", "_mode", "_bound", "_amp_scaling", "_asked_for")
"""What a copy takes over beside what torch's optimizers do."""


class LearningRateFree(Readings, amp.Scaled, Optimizer, MayJoin, modes.TwoModes):
    """A learning-rate-free optimizer. Use its subclasses (`Prodigy`, `DAdaptAdam`, ...), which name their options.

    params: tensors, (name, tensor) pairs or group dicts, as for every torch optimizer. method: a name in METHODS, or one
    that is not there.
    options: the defaults of the groups. step_size: the estimate of D, possibly shared with other optimizers.
    dtypes: those of the buffers.
    backend: "auto" takes the fastest kernel for each tensor; "c", "triton" and "eager" that one, and the plain loop for
    tensors that it cannot take.

    Nothing about a parameter is kept from the construction: frameworks wrap, shard and swap parameters afterwards.
    """

    def __init__(
        self,
        params: Any,
        *,
        method: str | Method,
        options: dict[str, Any],
        step_size: StepSize,
        dtypes: Dtypes = Dtypes(),  # noqa: B008 - immutable
        backend: str = "auto",
    ) -> None:
        for adapter in registry.adapters:
            if adapter.module in sys.modules:
                adapter.on_construction(type(self))
        param_state.check_dtypes(dtypes)
        self._method = METHODS[method]() if isinstance(method, str) else method
        options = self._method.options.defaults() | options
        options = check_options(options, self._method.options.checks(), type(self).__name__, type(self))
        self._asked_for = options  # as they are given, for groups to come
        options = self._method.completed(options, type(self).__name__)
        self.step_size: StepSize = step_size
        check_choice("backend", backend, get_args(Backend))
        if backend in KERNELS:
            check_available(backend)
        self._dtypes, self._backend = dtypes, backend
        self._unmoved: set[Tensor] = set()  # the x0 that were made here and that no step has used yet
        self._bound = False
        self._delivery: FrameworkAdapter | None = None  # None: to be asked for
        self._groups: list[dict[str, Any]] = []
        super().__init__(params, dict(options))
        self._name_tensors(0)
        step_size._join(self._method, options, self.param_groups)
        self._join()

    def _join(self) -> None:
        MayJoin.__init__(self)
        self._bound = True
        self._number = next(torch_compile.numbers)
        torch_compile.live[self._number] = self
        self._base = BaseOptimizer(self._method, self.step_size.nonfinite) if self._method.runs_base else None
        self._seen: Look | None = None  # the parameters that all had their buffers
        for name in ("_plans", "_lots", "_shown"):  # of the groups and parameters before
            self.__dict__.pop(name, None)
        self._looked = False  # at all options, in this call of step()
        self._loss: Tensor | float | None = None
        self._knows_scaler = False  # whether a scaler that tells nothing was looked for
        self._delivery, self._groups = None, self.param_groups
        self.step_size._roster.add(self)
        self._bind_groups()

    @cached_property
    def _plans(self) -> PlanCache:
        """The plans of the steps before."""
        return PlanCache()

    # ---------------------------------------------------------------- groups

    @cached_property
    def _lots(self) -> Lots:
        """The lots of all groups, as last looked at."""
        return Lots(self.defaults, self._method.options.checks(), type(self).__name__)

    @cached_property
    def _shown(self) -> Lots:
        """The lots of the groups that a framework shows."""
        return Lots(self.defaults, self._method.options.checks(), type(self).__name__)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group, as torch's optimizers do. Raises ValueError for an option that cannot be right; nothing is added."""
        if self._bound:
            self._adopt_groups()
        if isinstance(param_group, dict):
            where = f"{type(self).__name__} group {len(self.param_groups)}"
            param_group = check_options(param_group, self._method.options.checks(), where, type(self))
            options = self._method.completed(self.defaults | self._asked_for | param_group, where)
            param_group |= {name: options[name] for name in self.defaults if options[name] is not self.defaults[name]}
            if "d" in param_group:
                param_groups.warn_of_d(param_group, where)
        super().add_param_group(param_group)
        self._method.options.leave_out(self.param_groups[-1])
        try:
            param_state.check_params(self.param_groups[-1]["params"], self._dtypes.state)
            param_state.check_narrow(self.param_groups[-1]["params"], self._method, self.param_groups[-1])
            if self._bound:
                self._name_tensors(len(self.param_groups) - 1)
                self.step_size._settle()
                self.step_size._register(self.param_groups[-1])
        except Exception:
            self.param_groups.pop()
            raise

    def _name_tensors(self, first: int) -> None:
        """Name the estimates of the tensors of new groups, from this place on, where each tensor has one."""
        for group in self.param_groups[first:]:
            group.pop(TENSORS, None)
        if self.step_size._per_tensor:
            per_tensor.name_tensors(self.param_groups[first:], first)

    def _bind_groups(self) -> None:
        """Let the groups' scalars be views of the step size's. In place: schedulers and frameworks may hold the very dicts."""
        groups, views, hidden, moded = self._all_groups, self._views(), self._unsaved(), self._has_modes
        for group, of_group in zip(groups, views, strict=True):
            group.update(of_group, method=self._method.name, format=FORMAT)
            if moded:
                group["mode"] = self._mode
            for name in {"d", *hidden} - {*of_group}:
                group.pop(name, None)
        names = tuple(name for name in (*self.step_size._scalars.values, "steps") if name not in hidden)
        self._watched = names, [view for of_group in views for view in of_group.values()]
        self._bound_groups = [*groups]
        params = [p for group in groups for p in group["params"]]
        sharded = any(type(p) is not Parameter and is_dtensor(p) for p in params)
        self._traced = [] if self._base or sharded else params  # the steps of others stay outside a compiled graph

    @property
    def _has_modes(self) -> bool:
        """Whether parameters hold other values in evaluation than in training."""
        method = self._method
        if method.has_modes or type(method).shown is Evaluates.shown:
            return method.has_modes
        return any(method.shown(options) is not None for options in (self.defaults, *self._all_groups))

    def _views(self) -> list[dict[str, Tensor]]:
        """What each group holds of its estimate."""
        scalars, steps, hidden = self.step_size._scalars, {"steps": self.step_size._shown_steps}, self._unsaved()
        all_of_group = (scalars.of(scalars.rows_of(group)) | steps for group in self._all_groups)
        return [{name: view for name, view in views.items() if name not in hidden} for views in all_of_group]

    def _unsaved(self) -> frozenset[str]:
        """The scalars that no group shows and no checkpoint holds."""
        of_groups = [frozenset(self._method.unsaved(group)) for group in self._all_groups]
        return frozenset.intersection(*of_groups) if of_groups else frozenset()

    def _given_scalars(self) -> list[tuple[param_groups.Key, Any]]:
        """((estimate, name), value) of every scalar of a group that somebody has put another value in the place of.

        Empty while there are groups that are not ours yet: see `replaced_groups`. Views that were deleted are put back.
        """
        groups = self._all_groups
        return param_groups.given(groups, self._views()) if self._are_bound(groups) else []

    def _adopt_groups(self) -> None:
        """Take in groups that somebody has put in the place of ours."""
        if not self._are_bound(self.param_groups):
            replaced_groups.adopt(self)

    def _are_bound(self, groups: list[dict[str, Any]]) -> bool:
        return len(groups) == len(self._bound_groups) and all(map(is_, groups, self._bound_groups))

    @property
    def _all_groups(self) -> list[dict[str, Any]]:
        """All groups, also while a framework shows step() only some of them as `param_groups`."""
        shown, known = self.param_groups, self._groups
        if shown is not known:
            new = any(all(group is not other for other in known) for group in shown)
            if new or not self._brought_by.in_pieces:  # else the framework shows one of them
                self._groups = shown
        return self._groups

    def _option_lots(self) -> Lots:
        """The lots of all groups, by their options as they are now."""
        if not self._looked:
            self._lots.look(self._all_groups, *self._watched)
        return self._lots

    def _params(self) -> list[Sequence[Tensor]]:
        """The parameters of each group."""
        if self._brought_by is NO_FRAMEWORK:
            return [group["params"] for group in self._all_groups]
        return [[p for _, p in named] for named in self._brought_by.tensors(self._all_groups)]

    def _look(self) -> Look:
        """The parameters as they are now."""
        params = [*chain.from_iterable(self._params())]
        return [*map(id, params)], [p.requires_grad for p in params], len(self.state)

    def _named_params(self) -> Iterator[tuple[str, str | None, Tensor]]:
        """(position, name or None, parameter) of every parameter."""
        for index, named in enumerate(self._brought_by.tensors(self._all_groups)):
            for place, (name, p) in enumerate(named):
                yield f"{index}:{place}", name, p

    # ---------------------------------------------------------------- how a step arrives

    @property
    def _brought_by(self) -> FrameworkAdapter:
        """How the framework that holds this optimizer brings it a step."""
        known = self._delivery
        if known is None or (known is not NO_FRAMEWORK and known.is_over()):
            self._delivery = known = registry.bind(self)
        return known

    def _look_up_delivery(self) -> None:
        self._delivery = None

    # ---------------------------------------------------------------- one step

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None, *, loss: Tensor | float | None = None) -> Any:
        """Take one step with d_k, known before; the sums for d_{k+1} are reduced while the next forward and backward run.

        Args:
            closure: Computes the gradients anew and returns the loss, which step() then returns too.
            loss: Of this rank, for a method that uses it. None: the attribute `loss`, else what the closure returned.

        Raises:
            TypeError, ValueError: The loss is no number, or an option or a gradient cannot be right; nothing has moved.
        """
        if self._mode != TRAIN:
            modes.refuse_step(self)
        result = None
        if closure is not None:
            with torch.enable_grad():
                result = closure()
        if torch.compiler.is_compiling() and self._traced:
            torch_compile.step(self, loss, result)
        else:
            self._take_step(loss, result)
        return result

    # There is nothing in a step for a compiler to gain, and it would rewrite the groups.
    # torch.compiler.disable would import the compiler, for a second, when the class is made; this waits for the first call.
    @_disable_dynamo
    @torch.no_grad()
    def _take_step(self, loss: Any = None, result: Any = None) -> None:
        """One call of step(), with the gradients that are there. loss, result: as given to step(), and of its closure."""
        try:
            if self._method.wants_loss:
                self.loss = next((value for value in (loss, self._loss, result) if value is not None), None)
            self._adopt_groups()
            if self._wrapper is not None:
                amp.borrow(self)
            self._take(None if self.__dict__.get("found_inf") is None else amp.finding_of(self))
        except BaseException:
            amp.forget(self)
            raise
        finally:
            self._looked, self._loss = False, None
            if self._wrapper is not None:
                amp.give_back(self)

    def _take(self, found: Finding | None) -> None:
        if self._asked_by_unknown and found is None:
            amp.refuse_hidden(self)
        groups = self.param_groups
        lots = self._lots if groups is self._all_groups else self._shown
        lots.look(groups, *self._watched) if lots is self._lots else lots.look(groups)
        if self._brought_by is not NO_FRAMEWORK and self._brought_by.is_initialising():
            self._delivery = None  # what the framework is building is not there yet
            buffers.create_shown(self)
            return
        if not self._knows_scaler:
            self._knows_scaler = True
            if found is None:
                amp_alone.check(self)
        if self._join_config.is_first_joinable:
            self._announce()
        shown = [(group, group["params"]) for group in groups]
        self._looked = lots is self._lots
        self.step_size._step(self, found, lambda window: self._run(window, shown, lots, found))

    def _run(self, window: Window, shown: Entries, lots: Lots, found: Finding | None) -> None:
        """Take this call's part of a step, and add its sums to the window's."""
        if (
            self._all_groups
            and self._all_groups[0].get("log_every")
            and not (window.arrived and self._brought_by.in_pieces)
        ):
            log_every.log(self)
        window.moves |= lots.moves
        if not window.skipped:
            rms = self.step_size._rms
            squares = None if rms is None else rms.local
            window.sums += sweep(
                self, *self._split(shown, lots), phases=window.phases, skip=window.overflow, squares=squares
            )
            self._rest(shown, lots, came=True, skip=window.overflow)
        elif found is not None:
            found.spread(torch.tensor(True, device="cpu"))

    def _put_back(self, *, came: bool) -> None:
        """Put back what this step has not, where it puts back. came: has this optimizer taken its part of the step?"""
        rms = self.step_size._rms
        split = self._split(self._all(), self._option_lots())
        put_back(self, *split, came=came, squares=None if rms is None else rms.local)

    def _rest(self, entries: Entries, lots: Lots, *, came: bool, skip: Tensor | None) -> None:
        """Let the shown buffers of what the step does not move follow it: see `rest`."""
        if type(self._method).rest is not Evaluates.rest and self._has_modes:
            names, roster = self.step_size._scalars.names, self.step_size._roster
            moving = {
                name
                for name, some in zip(names, roster.moving(names, self.step_size._some_move()), strict=True)
                if some
            }
            rest(self, *self._split(entries, lots), moving=moving, came=came, skip=skip)

    def _rest_out(self, overflow: Tensor | None) -> None:
        """The step has ended without this optimizer. overflow: did a scaler find one in it?"""
        self._rest(self._all(), self._option_lots(), came=False, skip=overflow)

    def _measure(self, phases: Sequence[str], split: Method | None = None) -> Tensor:
        """The weighted sums of phases before the weights move: float64 [n_estimates, width]. split: see `measure`."""
        return measure(self, *self._split(self._all(), self._option_lots()), phases, split)

    def _squares(self) -> Tensor:
        """The weighted sum of squares of the gradients of the coming step, unscaled: 0-dim float64."""
        return squares(self, *self._split(self._all(), self._option_lots()))

    def _rehearse(self, phases: Sequence[str] = ("after",), squares: Tensor | None = None) -> Tensor:
        """The sums of the coming step, with nothing moved: float64 [n_estimates, width]. squares: as of `sweep`."""
        return sweep(self, *self._split(self._all(), self._option_lots()), phases=phases, dry=True, squares=squares)

    def _split(self, entries: Entries, lots: Lots) -> tuple[Entries, Lots | per_tensor.TensorLots]:
        """The groups as they are, or, with an estimate for each tensor, each tensor as a group of its own."""
        return per_tensor.split(entries, lots) if self.step_size._per_tensor else (entries, lots)

    # ---------------------------------------------------------------- buffers

    def _all(self) -> list[tuple[dict[str, Any], Sequence[Tensor]]]:
        """Every group with all of its tensors."""
        return list(zip(self._all_groups, self._params(), strict=True))

    def _all_params(self) -> Iterator[tuple[dict[str, Any], Tensor]]:
        """Every parameter with its group."""
        return ((group, p) for group, params in self._all() for p in params)

    def _buffers(self, group: dict[str, Any]) -> dict[str, Buffer]:
        """The buffers of a group's parameters, without those that a frozen estimate no longer needs."""
        named = self._method.buffers(group)
        return {n: b for n, b in named.items() if not (self.step_size.frozen and b.statistic)}

    def _is_prepared(self) -> bool:
        """Return whether every trainable parameter has its buffers; False after one was unfrozen."""
        if buffers.lack_some(self):
            return False
        self._seen = self._look()
        return True

    @property
    def _had_buffers(self) -> set[int]:
        """Ids of the parameters that had their buffers when they were last looked at."""
        return set() if self._seen is None else {i for i, trains in zip(*self._seen[:2], strict=True) if trains}

    def _prepare(self) -> None:
        buffers.prepare(self)

    def _release_statistics(self) -> None:
        buffers.release_statistics(self)

    # ---------------------------------------------------------------- saving and loading

    def state_dict(self) -> dict[str, Any]:
        """As torch's. Waits for the reduce under way and calls no collective: one rank alone may save."""
        return saved_state.save(self, super().state_dict)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As torch's, but buffers keep their dtype. ValueError, before anything changes, for a checkpoint that does not fit."""
        saved_state.load(self, state_dict)

    def _accept_restored(self) -> None:
        self._brought_by.after_external_load(self)

    def __getstate__(self) -> dict[str, Any]:
        self.step_size._finish()
        self.step_size._adopt_between_steps()
        return super().__getstate__() | {name: getattr(self, name) for name in COPIED}

    def __setstate__(self, state: dict[str, Any]) -> None:
        adopted = "step_size" not in state  # by somebody who puts a checkpoint together by himself
        super().__setstate__({name: value for name, value in state.items() if name != "anchored"})
        self.__dict__.setdefault("_unmoved", set())
        if adopted:
            replaced_groups.adopt(self)
        self._join()
