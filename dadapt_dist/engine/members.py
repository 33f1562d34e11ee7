"""What the parts of the engine ask of an optimizer and of the StepSize that it shares, and the list of the optimizers.

The optimizer and StepSize are made of parts, and the parts need them. A part asks for one of these protocols in place of the
class, so that no two files import each other, not even for types.
"""

import weakref
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor

from ..comm.communicator import ShardLayout
from ..methods import Buffer, Method
from ..methods.base import Dtypes, Options
from ..sharding import registry
from ..sharding.framework import NO_FRAMEWORK, FrameworkAdapter
from ..sharding.rank_claims import Claims
from ..sharding.shard_index import Listed, ShardIndex
from .estimate_state import ScalarTable, estimates_of
from .grad_norms import GradNorms
from .option_sets import STAYS, Lots
from .rank_agreement import Agreement
from .step_plan import PlanCache, StepPlan
from .tensor_rms import TensorRms

Look = tuple[list[int], list[bool], int]
"""Ids of parameters, which of them train, and how many have a state."""

# ---------------------------------------------------------------- what a StepSize asks of the optimizers


class Member(Protocol):
    """What a StepSize asks of an optimizer that shares it."""

    defaults: dict[str, Any]  # options
    param_groups: list[dict[str, Any]]  # those that the present call of step() shows

    @property
    def loss(self) -> Tensor | float | None:
        """The loss of the present step on this rank."""

    @property
    def _all_groups(self) -> list[dict[str, Any]]:
        """All parameter groups."""

    @property
    def _brought_by(self) -> FrameworkAdapter:
        """How a step arrives."""

    def _look(self) -> Look:
        """The parameters as they are now."""

    def _option_lots(self) -> Lots:
        """The lots of all groups, by their options as they are now."""

    def _named_params(self) -> Iterator[tuple[str, str | None, Tensor]]:
        """(position in the groups, name or None, parameter) of every parameter."""

    def _look_up_delivery(self) -> None:
        """Ask the frameworks anew how they bring a step."""

    def _is_prepared(self) -> bool:
        """Return whether every trainable parameter has its buffers."""

    def _prepare(self) -> None:
        """Create the buffers of every trainable parameter."""

    def _release_statistics(self) -> None:
        """Drop the buffers that serve the estimate alone."""

    def _measure(self, phases: Sequence[str], split: Method | None = None) -> Tensor:
        """Weighted sums of phases before the weights move: [n_estimates, width(phases)]. split: see `measure`."""

    def _squares(self) -> Tensor:
        """Weighted sum of the squares of all gradients of the coming step, as they come: 0-dim float64."""

    def _put_back(self, *, came: bool) -> None:
        """Put back what a step has not, where it puts back."""

    def _rest_out(self, overflow: Tensor | None) -> None:
        """Let buffers follow a step in which the optimizer has no part."""

    def _rehearse(self, phases: Sequence[str], squares: Tensor | None = None) -> Tensor:
        """Sums that the coming step would have, with nothing moved: [n_estimates, width(phases)]. squares: see `sweep`."""

    def _bind_groups(self) -> None:
        """Point the groups' scalars to the StepSize's."""

    def _given_scalars(self) -> list[tuple[tuple[str, str], Any]]:
        """((estimate, name), value) of every scalar of a group that somebody has put another value in the place of."""

    def _accept_restored(self) -> None:
        """Complete a checkpoint that a framework has put into state and groups; ValueError when it did not come whole."""


def pieces_now(member: Member) -> set[int]:
    """Keys of the pieces that the present call of step() brings: its tensors, or one key for a step in one piece."""
    if not member._brought_by.in_pieces:
        return {id(member)}
    return {id(p) for group in member.param_groups for p in group["params"]}


class Roster:
    """The optimizers of this process that share one StepSize."""

    def __init__(self, layout: ShardLayout) -> None:
        self._layout = layout
        self.restored = False  # has a framework put a checkpoint into the groups by itself?
        self._members: list[weakref.ref[Member]] = []
        self._ready: tuple[int, list[Look]] | None = None  # `placing`, and the parameters, when all had buffers

    def __iter__(self) -> Iterator[Member]:
        return iter([member for ref in self._members if (member := ref()) is not None])

    def measured(self, phases: Sequence[str], split: Method | None = None) -> Tensor:
        """The sums of phases before the weights move, of all optimizers on this rank: see `measure`."""
        return torch.stack([member._measure(phases, split) for member in self]).sum(0)

    @cached_property
    def shards(self) -> ShardIndex:
        """Where their parameters live."""
        return ShardIndex(self._layout)

    def add(self, member: Member) -> None:
        if all(other is not member for other in self):
            self._members.append(weakref.ref(member))
        self._ready = None

    def groups(self) -> list[dict[str, Any]]:
        """All groups of all optimizers."""
        return [group for member in self for group in member._all_groups]

    def params(self) -> list[Tensor]:
        """All parameters of all optimizers."""
        return [p for member in self for _, _, p in member._named_params()]

    def moving(self, names: Sequence[str], some: bool) -> list[bool]:
        """Whether a group of each estimate has an lr above 0; estimates without a group here follow the step: some."""
        if len(names) == 1 or not some:
            return [some] * len(names)
        pairs = [pair for member in self for pair in zip(member._all_groups, member._option_lots().of, strict=True)]
        here = {name for group, _ in pairs for name in estimates_of(group)}
        moving = {name for group, lot in pairs if lot != STAYS for name in estimates_of(group)}
        return [name in moving or name not in here for name in names]

    def forget(self) -> None:
        """Place all parameters anew at the next step, and take no checkpoint for restored by a framework."""
        self.shards.place_anew()
        self.restored = False

    def accept_restored(self) -> None:
        """Let every optimizer complete what a framework has loaded by itself; ValueError when it did not come whole."""
        if self.restored or any(member._brought_by.was_loaded(member._all_groups) for member in self._held()):
            for member in self:
                member._accept_restored()
            self.restored = False

    def _held(self) -> list[Member]:
        """The optimizers that a framework holds: it may change them at any time."""
        return [member for member in self if member._brought_by is not NO_FRAMEWORK]

    def is_ready(self) -> bool:
        """Return whether every parameter is placed and has its buffers, by one look at the ids of all."""
        if self._ready is None or self.shards.placed is None or not self._is_here():
            return False
        if any(member._brought_by.replaces_parameters for member in self._held()):
            return False
        return self._ready == (self.shards.placing, [member._look() for member in self])

    def is_placed(self) -> bool:
        """Return whether every parameter is placed; not at the first step, nor after parameters or the process group changed."""
        placed = self.shards.placed  # a rank without parameters has to take part in placing them all the same
        return placed is not None and self._is_here() and all(p in placed for p in self.params())

    def _is_here(self) -> bool:
        """Return whether the process group is the one in which the parameters were placed."""
        if self.shards.layout.process_group is not None:
            return self.shards.is_here()
        placed_in, world = (
            self.shards.parent,
            dist.group.WORLD,
        )  # torch is asked itself, since this is asked in every step
        return world is None if placed_in is None else world is not None and placed_in() is world

    def place(
        self,
        claims: Claims,
        check: Callable[[], None] = lambda: None,
        kernels_of: Callable[[torch.device], Hashable] = lambda device: None,
    ) -> None:
        """Find where all parameters live; a collective call of all ranks. Raises PlacementError on all ranks alike.

        check: raises for what this rank cannot do. kernels_of: what all ranks need alike to step on a device.
        """

        def look() -> tuple[list[Listed], Claims]:
            for member in self:
                member._look_up_delivery()
            params = [
                (f"{index}:{position}", name, p)
                for index, member in enumerate(self)
                for position, name, p in member._named_params()
            ]
            kind = 0 if any(member._brought_by.replaces_parameters for member in self) else None
            check()
            return params, replace(claims, kind=kind)

        registry.refuse(self.params())
        self.shards.place(look, kernels_of)

    def prepare(self) -> None:
        """Let every optimizer have its buffers."""
        looks = [member._look() for member in self]
        unprepared = [member for member in self if not member._is_prepared()]
        for member in unprepared:
            member._prepare()
        self._ready = None if unprepared else (self.shards.placing, looks)


# ---------------------------------------------------------------- what the parts ask of a StepSize


class HasScalars(Protocol):
    """A StepSize to those who read its scalars, and where the parameters live."""

    freeze_after: int | None
    _norms: GradNorms | None  # of the gradients, where they are asked for
    _clip_scale: Tensor | None  # what the gradients of the present step are divided by, where they are clipped
    _rms: TensorRms | None  # of each tensor of the model, where the method's step depends on it

    @property
    def _shards(self) -> ShardIndex:
        """Where the parameters live."""

    @property
    def _scalars(self) -> ScalarTable:
        """The scalars of all estimates."""

    @property
    def steps(self) -> int:
        """The number of steps."""

    @property
    def _calls(self) -> int:
        """The number of steps as it is known without waiting."""

    @property
    def frozen(self) -> bool:
        """Whether d stays for good."""


class TakesScalars(HasScalars, Protocol):
    """A StepSize to those who save and load its scalars."""

    _roster: Roster

    def _settle(self) -> None:
        """Wait for the reduce under way; RuntimeError when a step is half done."""

    def _check_settled(self) -> None:
        """Raise RuntimeError when a step is half done."""

    def _adopt(self) -> None:
        """Set the scalars by what users have put into the groups."""

    def _load(self, estimate: str, saved: Options) -> None:
        """Set the scalars of an estimate, and the number of steps, from a saved group."""

    def _restore(self, steps: int) -> None:
        """Set the number of steps alone."""

    def _value(self, estimate: str, name: str) -> Any:
        """One scalar as a python number."""

    def _set_value(self, estimate: str, name: str, value: Any, *, alone: bool) -> None:
        """Set one scalar. alone: False where all others of the estimate are set too."""


class Watched(Protocol):
    """A StepSize to those who look at how a run goes."""

    _layout: ShardLayout
    _roster: Roster
    freeze_after: int | None

    @property
    def _scalars(self) -> ScalarTable:
        """The scalars of all estimates."""

    @property
    def _agreement(self) -> Agreement:
        """What all ranks keep equal."""

    _still: int
    """Calls of step() in a row in which nothing could move."""

    @property
    def _calls(self) -> int:
        """The number of steps as it is known without waiting."""


# ---------------------------------------------------------------- what the parts ask of an optimizer


class Base(Protocol):
    """A torch optimizer that gives an optimizer of ours its direction."""

    def is_prepared(self, optimizer: Any) -> bool:
        """Return whether it knows all parameters that train."""

    def prepare(self, optimizer: Any) -> None:
        """Let it know all parameters that train."""

    def buffers(self, optimizer: Any, p: Tensor) -> dict[str, Tensor]:
        """The buffers of a parameter that it keeps for the method."""

    def step(self, optimizer: Any, plan: StepPlan, skip: Tensor | None) -> None:
        """Take its step over the parameters of a plan."""

    def rehearse(self, optimizer: Any, plan: StepPlan) -> None:
        """Leave in the buffers what its step would take off, with nothing else changed."""


class HasState(Protocol):
    """An optimizer to those who make and keep the buffers of its parameters."""

    param_groups: list[dict[str, Any]]
    state: defaultdict[Tensor, Any]
    _method: Method
    _dtypes: Dtypes
    _unmoved: set[Tensor]

    @property
    def _base(self) -> Base | None:
        """What gives its direction; None where the method does."""

    @property
    def step_size(self) -> HasScalars:
        """The StepSize that it shares."""

    @property
    def _all_groups(self) -> list[dict[str, Any]]:
        """All groups."""

    @property
    def _brought_by(self) -> FrameworkAdapter:
        """How a step arrives."""

    @property
    def _had_buffers(self) -> set[int]:
        """Ids of the parameters that had their buffers when they were last looked at."""

    def _all_params(self) -> Iterator[tuple[dict[str, Any], Tensor]]:
        """Every parameter with its group."""

    def _buffers(self, group: dict[str, Any]) -> dict[str, Buffer]:
        """The buffers of a group's parameters."""


class MovesTensors(HasState, Protocol):
    """An optimizer to those who take its step over the local tensors."""

    _backend: str

    @property
    def _plans(self) -> PlanCache:
        """The plans of the steps before."""

    @property
    def loss(self) -> Tensor | float | None:
        """The loss of the present step on this rank."""


class HasGroups(Protocol):
    """An optimizer to those who look after its groups."""

    param_groups: list[dict[str, Any]]
    _bound_groups: list[dict[str, Any]]
    defaults: dict[str, Any]
    _method: Method
    _mode: str
    _noted: dict[int, tuple[int, int]] | None
    _mapped: frozenset[int]

    @property
    def _has_modes(self) -> bool:
        """Whether parameters hold other values in evaluation than in training."""

    @property
    def step_size(self) -> TakesScalars:
        """The StepSize that it shares."""

    @property
    def _all_groups(self) -> list[dict[str, Any]]:
        """All groups."""

    def _bind_groups(self) -> None:
        """Point the groups' scalars to the StepSize's."""


class HasModes(HasGroups, MovesTensors, Protocol):
    """An optimizer to those who switch its parameters between training and evaluation."""


class Saves(HasGroups, HasState, Protocol):
    """An optimizer to those who save and load it."""

    @property
    def _optimizer_load_state_dict_pre_hooks(self) -> Mapping[int, Callable[..., Any]]:
        """torch's: called with the optimizer and the state dict before it is looked at."""

    @property
    def _optimizer_load_state_dict_post_hooks(self) -> Mapping[int, Callable[..., Any]]:
        """torch's: called with the optimizer when all is loaded."""

    def __setstate__(self, state: dict[str, Any]) -> None:
        """torch's: put state and groups in the place of the present ones."""
