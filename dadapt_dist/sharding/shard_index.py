"""Where the parameters of this process live, and how many ranks hold the same elements."""

import weakref
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import replace
from statistics import mode
from typing import Any

import torch
from torch import Tensor

from ..comm.communicator import ShardLayout
from .model_tensors import number_tensors, runs_of
from .rank_claims import Claims
from .registry import resolve
from .replicas import Item, find_copies, report_failure
from .replicated import ddp_modules
from .shard import LocalShard
from .tensor_parallel import Contrast

Part = tuple[LocalShard, float]  # with the weight 1/copies
Run = tuple[int, int, int]  # a tensor of the model by its number, and which elements of a part are its
Listed = tuple[str, str | None, Tensor]
"""A parameter: where it stands among those of this process, its name or None, its tensor."""


class ShardIndex:
    """The placements of the parameters of this process, which `place` finds."""

    def __init__(self, layout: ShardLayout) -> None:
        self.layout = layout
        self.parent: weakref.ref[Any] | None = None  # the process group in which they were placed
        self.classes = [0]  # of each rank: those of one class have equal options
        self.is_of_largest_class = True  # of several as large, the first
        self.modules: list[Any] = []  # DDP's that hold some of them
        self.suspects: list[Tensor] = []  # those that are copies by their values alone
        self.is_witnessed = False  # have all ranks such, and the same?
        self.is_replicated = True  # does every rank hold every element?
        self.placed: dict[Tensor, list[Part]] | None = None  # None: never, or to be placed anew
        self.placing = 0  # how often parameters were placed
        self.tells_apart = False  # are the tensors of the model to be told apart?
        self.contrast = Contrast()  # of the loss, where the method uses it
        self.n_tensors = 0  # of the model, over all ranks, where they are
        self._first: dict[Tensor, LocalShard] = {}
        self._runs: dict[Tensor, list[tuple[Run, ...]]] = {}
        self._proven: dict[Tensor, int] = {}  # parameters whose copies were found equal, and how many they were

    def is_cut(self, params: Iterable[Tensor]) -> bool:
        """Return whether some parameter is sharded, or on some ranks only, as far as is known before they are placed."""
        if self.placed is not None:
            return not self.is_replicated
        return self.layout.world_size > 1 and any(
            place.num_shards > 1 for places in resolve([*params]) for place in places
        )

    def placement(self, p: Tensor) -> LocalShard:
        """Where p lives; of a flat tensor with several parameters, the first of them."""
        return self._first[p]

    def parts(self, p: Tensor) -> list[Part]:
        """The parts of p that are summed and moved, each with the weight 1/copies of its partial sums. Most have one."""
        assert self.placed is not None, "parameters are placed when a window opens"
        return self.placed[p]

    def runs(self, p: Tensor) -> list[tuple[Run, ...]]:
        """For each part of p the tensors of the model that have elements in it; empty where these are not told apart."""
        return self._runs.get(p) or [()] * len(self.parts(p))

    def is_here(self) -> bool:
        """Return whether the process group is the one in which the parameters were placed."""
        parent = self.layout.parent
        return parent is None if self.parent is None else parent is not None and self.parent() is parent

    def place_anew(self) -> None:
        """Place all parameters anew at the next step: a framework may have swapped or resharded them."""
        self.placed = None

    def place(
        self,
        look: Callable[[], tuple[Sequence[Listed], Claims]],
        kernels_of: Callable[[torch.device], Hashable] = lambda device: None,
    ) -> None:
        """Find where all parameters live; a collective call of all ranks. Raises PlacementError on all ranks alike.

        look: lists all parameters, and what else this rank says of itself; raises for what this rank cannot do. kernels_of:
        what all ranks need alike to step on a device.
        """
        self.layout.meet()
        parent = self.layout.parent
        device = self.layout.reduce_device(torch.device("cpu"))
        try:
            params, claims = look()
            home = home_device([p for _, _, p in params])
            device = self.layout.reduce_device(home)
            claims = replace(claims, configuration=(claims.configuration, kernels_of(home)))
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
        self.parent = None if parent is None else weakref.ref(parent)
        self.placing += 1
        self.placed = {p: merged(parts) for p, parts in placed.items()}
        self._runs, self.n_tensors = {}, 0
        if self.tells_apart:
            self.n_tensors, numbers = number_tensors(items, found.lists, self.layout)
            self._runs = {p: [runs_of(place, p, numbers[p]) for place, _ in parts] for p, parts in self.placed.items()}

    def _suspect(self, items: list[Item]) -> None:
        """Find the parameters that are copies by their values alone: plain ones that DDP does not hold, looked at once."""
        self.modules = ddp_modules(item.param for item in items) if self.layout.parent is not None else []
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

    def _items(self, params: Sequence[Listed]) -> list[Item]:
        placements = zip(params, resolve([p for _, _, p in params]), strict=True)
        entries = [
            (position, place.fqn or name, p, place) for (position, name, p), places in placements for place in places
        ]
        repeated = {name for name, count in Counter(name for _, name, _, _ in entries).items() if count > 1}
        items, same = [], self.is_here()
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
