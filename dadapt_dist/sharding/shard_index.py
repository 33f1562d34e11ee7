"""The optimizers that share one d, and the shards of all their parameters."""

import weakref
from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import replace
from statistics import mode
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor

from ..comm.communicator import ShardLayout
from . import ddp, registry
from .framework import NO_FRAMEWORK, FrameworkAdapter
from .rank_claims import Claims
from .replicas import Item, find_copies, report_failure
from .resolve import resolve
from .shard import LocalShard

Part = tuple[LocalShard, float]  # with the weight 1/copies
Look = tuple[list[int], list[bool], int]
"""Ids of parameters, which of them train, and how many have a state."""


class Member(Protocol):
    """What a StepSize asks of an optimizer that shares it."""

    defaults: dict[str, Any]  # options
    param_groups: list[dict[str, Any]]  # those that the present call of step() shows

    @property
    def groups(self) -> list[dict[str, Any]]:
        """All parameter groups."""

    @property
    def delivery(self) -> FrameworkAdapter:
        """How a step arrives."""

    def look(self) -> Look:
        """The parameters as they are now."""

    def lots(self) -> Any:
        """The lots of all groups, by their options as they are now."""

    def named_params(self) -> Iterator[tuple[str, str | None, Tensor]]:
        """(position in the groups, name or None, parameter) of every parameter."""

    def look_up_delivery(self) -> None:
        """Ask the frameworks anew how they bring a step."""

    def is_prepared(self) -> bool:
        """Return whether every trainable parameter has its buffers."""

    def prepare(self) -> None:
        """Create the buffers of every trainable parameter."""

    def release_statistics(self) -> None:
        """Drop the buffers that serve the estimate alone."""

    def measure(self, phases: Sequence[str]) -> Tensor:
        """Weighted sums of phases before the weights move: [n_estimates, width(phases)]."""

    def rehearse(self, phases: Sequence[str]) -> Tensor:
        """Sums that the coming step would have, with nothing moved: [n_estimates, width(phases)]."""

    def bind_groups(self) -> None:
        """Point the groups' scalars to the StepSize's."""

    def given_scalars(self) -> list[tuple[tuple[str, str], Any]]:
        """((estimate, name), value) of every scalar of a group that somebody has put another value in the place of."""

    def accept_restored(self) -> None:
        """Complete a checkpoint that a framework has put into state and groups; ValueError when it did not come whole."""


class Roster:
    """The optimizers of this process that share one StepSize, and the placements of their parameters."""

    def __init__(self, layout: ShardLayout) -> None:
        self.layout = layout
        self.restored = False  # has a framework put a checkpoint into the groups by itself?
        self._members: list[weakref.ref[Member]] = []
        self._parent: weakref.ref[Any] | None = None  # the process group in which they were placed
        self.classes = [0]  # of each rank: those of one class have equal options
        self.is_of_largest_class = True  # of several as large, the first
        self.modules: list[Any] = []  # DDP's that hold some of them
        self.suspects: list[Tensor] = []  # those that are copies by their values alone
        self.is_witnessed = False  # have all ranks such, and the same?
        self.is_replicated = True  # does every rank hold every element?
        self._placed: dict[Tensor, list[Part]] | None = None  # None: never, or to be placed anew
        self._first: dict[Tensor, LocalShard] = {}
        self.placing = 0  # how often parameters were placed
        self._ready: tuple[int, list[Look]] | None = None  # `placing`, and the parameters, when all had buffers
        self._proven: dict[Tensor, int] = {}  # parameters whose copies were found equal, and how many they were

    def __iter__(self) -> Iterator[Member]:
        return iter([member for ref in self._members if (member := ref()) is not None])

    def groups(self) -> list[dict[str, Any]]:
        """All groups of all optimizers."""
        return [group for member in self for group in member.groups]

    def is_cut(self) -> bool:
        """Return whether some parameter is sharded, or on some ranks only, as far as is known before they are placed."""
        if self._placed is not None:
            return not self.is_replicated
        params = [p for member in self for _, _, p in member.named_params()]
        return self.layout.world_size > 1 and any(
            place.num_shards > 1 for places in resolve(params) for place in places
        )

    def add(self, member: Member) -> None:
        if all(other is not member for other in self):
            self._members.append(weakref.ref(member))
        self._ready = None

    def placement(self, p: Tensor) -> LocalShard:
        """Where p lives; of a flat tensor with several parameters, the first of them."""
        return self._first[p]

    def parts(self, p: Tensor) -> list[Part]:
        """The parts of p that are summed and moved, each with the weight 1/copies of its partial sums. Most have one."""
        assert self._placed is not None, "parameters are placed when a window opens"
        return self._placed[p]

    def place_anew(self) -> None:
        """Place all parameters anew at the next step."""
        self._placed = None

    def forget(self) -> None:
        """Place all parameters anew at the next step: a framework may have swapped or resharded them."""
        self._placed, self.restored = None, False

    def accept_restored(self) -> None:
        """Let every optimizer complete what a framework has loaded by itself; ValueError when it did not come whole."""
        if self.restored or any(member.delivery.was_loaded(member.groups) for member in self._held()):
            for member in self:
                member.accept_restored()
            self.restored = False

    def is_ready(self) -> bool:
        """Return whether every parameter is placed and has its buffers, by one look at the ids of all."""
        if self._ready is None or self._placed is None or not self._is_here():
            return False
        if any(member.delivery.replaces_parameters for member in self._held()):
            return False
        return self._ready == (self.placing, [member.look() for member in self])

    def _held(self) -> list[Member]:
        """The optimizers that a framework holds: it may change them at any time."""
        return [member for member in self if member.delivery is not NO_FRAMEWORK]

    def is_placed(self) -> bool:
        """Return whether every parameter is placed; not at the first step, nor after parameters or the process group changed."""
        placed = self._placed  # a rank without parameters has to take part in placing them all the same
        return (
            placed is not None
            and self._is_here()
            and all(p in placed for member in self for _, _, p in member.named_params())
        )

    def _is_here(self) -> bool:
        """Return whether the process group is the one in which the parameters were placed."""
        default = self.layout.process_group is None  # asked of torch, since this is asked in every step
        parent = dist.group.WORLD if default else self.layout.parent
        return parent is None if self._parent is None else parent is not None and self._parent() is parent

    def place(
        self,
        claims: Claims,
        check: Callable[[], None] = lambda: None,
        kernels_of: Callable[[torch.device], Hashable] = lambda device: None,
    ) -> None:
        """Find where all parameters live; a collective call of all ranks. Raises PlacementError on all ranks alike.

        check: raises for what this rank cannot do. kernels_of: what all ranks need alike to step on a device.
        """
        registry.refuse([p for member in self for _, _, p in member.named_params()])
        self.layout.meet()
        parent = self.layout.parent
        device = self.layout.reduce_device(torch.device("cpu"))
        try:
            for member in self:
                member.look_up_delivery()
            params = [entry for index, member in enumerate(self) for entry in self._entries(index, member)]
            home = home_device([p for _, _, p in params])
            device = self.layout.reduce_device(home)
            kind = 0 if any(member.delivery.replaces_parameters for member in self) else None
            claims = replace(claims, configuration=(claims.configuration, kernels_of(home)), kind=kind)
            check()
            items = self._items(params)
            self._suspect(items)
            claims = replace(claims, n_suspects=len(self.suspects))
        except Exception as error:  # any failure must reach the other ranks, which are about to communicate
            report_failure(error, self.layout, device)
            raise
        found = find_copies(items, claims, self.layout, device)
        copies, self.classes, self.is_witnessed = found.copies, found.classes, found.is_witnessed
        self.is_of_largest_class = self.classes[self.layout.rank] == mode(self.classes)
        self._proven = {item.param: number for item, number in zip(items, copies, strict=True)}
        self._first = {}
        placed: dict[Tensor, list[Part]] = {}
        for item, number in zip(items, copies, strict=True):
            self._first.setdefault(item.param, item.place)
            placed.setdefault(item.param, []).append((item.place, 1.0 / number))
        self.is_replicated = all(number == self.layout.world_size for number in copies) and len({*self.classes}) == 1
        self._parent = None if parent is None else weakref.ref(parent)
        self.placing += 1
        self._placed = {p: merged(parts) for p, parts in placed.items()}

    def _suspect(self, items: list[Item]) -> None:
        """Find the parameters that are copies by their values alone: plain ones that DDP does not hold, looked at once."""
        self.modules = ddp.modules(item.param for item in items) if self.layout.parent is not None else []
        held = {
            id(p)
            for module in self.modules
            if module.process_group.size() == self.layout.world_size
            for p in module.module.parameters()
        }
        self.suspects = [
            item.param
            for item in items
            if item.place.is_plain and item.copies is None and not item.proven and id(item.param) not in held
            if item.place.num_shards == 1
        ]

    def prepare(self) -> None:
        """Let every optimizer have its buffers."""
        looks = [member.look() for member in self]
        unprepared = [member for member in self if not member.is_prepared()]
        for member in unprepared:
            member.prepare()
        self._ready = None if unprepared else (self.placing, looks)

    def _entries(self, index: int, member: Member) -> Iterator[tuple[str, str | None, Tensor]]:
        for position, name, p in member.named_params():
            yield f"{index}:{position}", name, p

    def _items(self, params: list[tuple[str, str | None, Tensor]]) -> list[Item]:
        placements = zip(params, resolve([p for _, _, p in params]), strict=True)
        entries = [
            (position, place.fqn or name, p, place) for (position, name, p), places in placements for place in places
        ]
        repeated = {name for name, count in Counter(name for _, name, _, _ in entries).items() if count > 1}
        items, same = [], self._is_here()
        for position, name, p, place in entries:
            unique = f"{name} at {position}" if name is not None and name in repeated else name
            copies = self.layout.copies(p) if self.layout.copies is not None else None
            if copies is not None and not 1 <= copies <= self.layout.world_size:
                raise ValueError(
                    f"copies= gave {copies} for a parameter of shape {tuple(p.shape)}; it must be between 1 and the "
                    f"{self.layout.world_size} ranks of the group, or None to have it found out."
                )
            before = self._proven.get(p) if same and unique is None else None
            items.append(Item(p, unique, position, place, copies, p in self._proven, before))
        return items


def merged(parts: list[Part]) -> list[Part]:
    """Neighbours of equal weight as one part, and none without elements: the fewer parts, the fewer kernels."""
    if parts[0][0].flat_slice is None:
        return parts
    whole: list[Part] = []
    for place, weight in parts:
        run = place.flat_slice
        if run is None or run.start == run.stop:
            continue
        before = whole[-1][0].flat_slice if whole else None
        if before is not None and before.stop == run.start and whole[-1][1] == weight:
            whole[-1] = replace(whole[-1][0], flat_slice=slice(before.start, run.stop)), weight
        else:
            whole.append((place, weight))
    return whole


def home_device(params: list[Tensor]) -> torch.device:
    """Where the scalars live: the parameters' device; an accelerator when there are several devices, or no parameters.

    A rank without parameters must reduce on the kind of device on which the others do.
    """
    devices = [p.device for p in params if not p.is_meta]
    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    if not devices and accelerator is not None:
        return torch.device(accelerator.type, torch.accelerator.current_device_index())
    return next((device for device in devices if device.type != "cpu"), devices[0] if devices else torch.device("cpu"))
