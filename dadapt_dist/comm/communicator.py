"""The ranks that train one model together, and the collectives of the optimizer."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh

from ..errors import PlacementError
from . import process_group


def _is_process_group(thing: Any) -> bool:
    """Whether torch made it: a group, or what it gives to ranks outside of one, which are refused when they are counted."""
    if not dist.is_available():
        return False
    return isinstance(thing, dist.ProcessGroup) or thing is dist.GroupMember.NON_GROUP_MEMBER


ONE_ROUND_RANKS = 8  # as many as were measured; beyond, every rank sends ever more messages


class OneRound:
    """A sum under way whose ranks all send to all at once. Every rank adds in the same order: the same bits on all."""

    def __init__(self, sums: Tensor, world_size: int, group: Any) -> None:
        self._sums = sums
        self._sent = sums.repeat(world_size)
        self._received = torch.empty_like(self._sent)
        self._work = dist.all_to_all_single(self._received, self._sent, group=group, async_op=True)

    def is_completed(self) -> bool:
        return bool(self._work.is_completed())

    def wait(self) -> None:
        """Wait for the others' numbers, and put the total into the tensor that was given."""
        self._work.wait()
        first, *others = self._received.chunk(len(self._received) // len(self._sums))
        self._sums.copy_(first)
        for other in others:
            self._sums.add_(other)


@dataclass(frozen=True, eq=False)
class ShardLayout:
    """The ranks that train one model together, and every collective of the optimizer.

    process_group: the ranks of the sums; None is the default group. copies: for sharding that cannot be read from a
    parameter (a plain tensor that holds a slice): `copies(p)` gives how many ranks of the group hold the same elements
    of p, or None to have it found out.
    """

    process_group: Any = None
    copies: Callable[[Tensor], int | None] | None = None

    @staticmethod
    def of(process_group: Any, copies: Callable[[Tensor], int | None] | None) -> "ShardLayout":
        """The layout of a process group; or the one that was given in its place. Raises TypeError for what is neither."""
        if not (process_group is None or isinstance(process_group, ShardLayout) or _is_process_group(process_group)):
            cure = "pass mesh.get_group(...)" if isinstance(process_group, DeviceMesh) else "leave it out for all ranks"
            raise TypeError(
                f"process_group={process_group!r} must be a process group of torch.distributed or None: {cure}"
            )
        if copies is not None and not callable(copies):
            raise ValueError(
                f"copies={copies!r} must be a function of a parameter, or None: leave it out to have copies counted"
            )
        if not isinstance(process_group, ShardLayout):
            return ShardLayout(process_group, copies)
        return process_group if copies is None else process_group.with_copies(copies)

    def with_copies(self, copies: Callable[[Tensor], int | None] | None) -> "ShardLayout":
        """The same ranks, with parameters that are said to have so many copies."""
        return ShardLayout(self.process_group, copies)

    @property
    def world_size(self) -> int:
        """Ranks of the group; 1 when torch.distributed is not initialised."""
        if not (dist.is_available() and dist.is_initialized()):
            return 1
        size = dist.get_world_size(self.process_group)
        if size < 1:
            raise PlacementError(
                f"rank {dist.get_rank()} is not in the process_group of its optimizer: pass the group of the ranks that train "
                "together with it, or None for all ranks."
            )
        return size

    @property
    def rank(self) -> int:
        """This process's rank in the group; 0 when torch.distributed is not initialised."""
        return 0 if self.world_size == 1 else dist.get_rank(self.process_group)

    def __deepcopy__(self, memo: dict[int, Any]) -> "ShardLayout":
        return self  # immutable, and a process group cannot be copied

    def __reduce__(self) -> tuple[Any, ...]:
        if self.process_group is not None:
            raise TypeError(
                "an optimizer with process_group= cannot be pickled, because a process group cannot: save its state_dict()"
            )
        return ShardLayout, (None, self.copies)

    @property
    def parent(self) -> Any:
        """The process group of torch.distributed whose ranks these are; None where it is not initialised.

        Raises PlacementError for a group that was destroyed.
        """
        if not (dist.is_available() and dist.is_initialized()):
            return None
        parent = self.process_group or dist.group.WORLD
        if self.process_group is not None and not process_group.is_alive(parent):
            raise PlacementError(
                "the process_group of this optimizer was destroyed: build the optimizer anew, with a group that lives, and load "
                "a checkpoint into it, on all ranks."
            )
        return parent

    @property
    def group(self) -> Any:
        """The process group of our own that carries the sums; the user's, until parameters are placed."""
        channel = process_group.find(self.parent)
        return self.process_group if channel is None else channel.group

    @property
    def timeout(self) -> float:
        """Seconds after which a collective that another rank has left out fails."""
        return process_group.timeout_of(self.parent).total_seconds()

    def meet(self) -> None:
        """Open the group that carries the sums; a collective call of all ranks."""
        parent = self.parent
        if parent is not None and self.world_size > 1:
            process_group.open_channel(parent)

    def count_launch(self) -> None:
        """Note that a reduce was started: ranks that have started unequally many need a new group."""
        channel = process_group.find(self.parent)
        if channel is not None:
            channel.launches += 1

    def all_reduce(self, sums: Tensor) -> Any:
        """Start the SUM of `sums` over the ranks, in place; returns the work to wait for.

        gloo's all_reduce takes several round trips, more with every rank; up to ONE_ROUND_RANKS ranks an all_to_all of the few
        numbers, added up on every rank in the order of the ranks, takes one.
        """
        group = self.group
        backends = dist.get_backend_config(group).split(",")  # one a device: cpu:gloo,cuda:nccl
        by_gloo = sums.device.type == "cpu" and "cpu:gloo" in backends
        if by_gloo and self.world_size <= ONE_ROUND_RANKS:
            return OneRound(sums, self.world_size, group)
        return dist.all_reduce(sums, group=group, async_op=True)

    def all_gather(self, row: Tensor) -> Tensor:
        """[n] of every rank -> [world_size, n]. Once, when the parameters are placed."""
        rows = [torch.empty_like(row) for _ in range(self.world_size)]
        dist.all_gather(rows, row, group=self.group)
        return torch.stack(rows)

    def all_gather_object(self, item: Any) -> list[Any]:
        """One picklable object of every rank. Once, and only when the ranks hold different parameters."""
        items: list[Any] = [None] * self.world_size
        dist.all_gather_object(items, item, group=self.group)
        return items

    def share(self, tensors: Sequence[Tensor], source: int, device: torch.device) -> None:
        """Copy tensors of the rank `source` of the group to all, in place. device: where those of the CPU can travel."""
        root = source if self.group is None else dist.get_global_rank(self.group, source)
        for t in tensors:
            moved = (t if t.device.type == device.type else t.to(device)).contiguous()
            dist.broadcast(moved, src=root, group=self.group)
            if moved is not t:
                t.copy_(moved)

    def reduce_device(self, home: torch.device) -> torch.device:
        """The device on which the group can reduce: `home` where the group has a backend for it."""
        if self.world_size == 1:
            return home
        group = self.process_group or dist.group.WORLD
        types = [device.type for device in getattr(group, "_device_types", [home])]
        if home.type in types or not types:
            return home
        if types[0] == "cpu":
            return torch.device("cpu")
        return torch.device(types[0], torch.accelerator.current_device_index())
