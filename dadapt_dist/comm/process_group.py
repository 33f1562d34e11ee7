"""A process group of our own for the sums, so that none of its collectives is mistaken for the model's.

A rank that leaves out a step() leaves out one of our collectives. In the model's own group, the other ranks would then hang
or add up whatever that rank sends next, such as part of a gradient.
"""

import contextlib
import inspect
import logging
import time
import weakref
from collections.abc import Iterator
from datetime import timedelta
from typing import Any
from unittest.mock import patch

import torch
import torch.distributed as dist
from torch.distributed import distributed_c10d as c10d

logger = logging.getLogger(__name__)

CLONED = {"gloo", "nccl", "xccl"}  # backends that are known to bear a second group of the same ranks
PATIENCE = 60.0  # seconds after which a rank says that it waits for the others


class Channel:
    """A process group that carries sums, and what this process has sent over it.

    parent: the user's group. serial: how many there were before it for this parent. launches: reduces started.
    """

    def __init__(self, parent: Any, serial: int) -> None:
        self.serial, self.launches = serial, 0
        self.meetings = 0
        self.group = _clone(parent, serial)


_channels: "weakref.WeakKeyDictionary[Any, Channel]" = weakref.WeakKeyDictionary()


def find(parent: Any) -> Channel | None:
    """The channel of a process group of torch.distributed; None where none was opened."""
    return None if parent is None else _channels.get(parent)


def open_channel(parent: Any) -> None:
    """See to it that a process group has a channel; a collective call of its ranks, every time.

    It is made at the first call, and anew where the ranks have not started equally many reduces over it: one that still
    waits for the others would be answered by a later one of theirs.
    """
    before = _channels.get(parent)
    if not _is_cloned(parent):
        if before is None:
            _channels[parent] = Channel(parent, -1)
        return
    if before is None:
        _meet(parent, "0", 0)
        _channels[parent] = Channel(parent, 0)
        return
    before.meetings += 1
    if not _meet(parent, f"{before.serial}.{before.meetings}", before.launches):
        _channels[parent] = Channel(parent, before.serial + 1)


def is_alive(parent: Any) -> bool:
    """Return whether torch.distributed still knows this group, which it does not after destroy_process_group()."""
    return parent in c10d._world.pg_map


def _is_cloned(parent: Any) -> bool:
    backends = {part.split(":")[-1] for part in dist.get_backend_config(parent).split(",")}
    return backends <= CLONED


def _clone(parent: Any, serial: int) -> Any:
    """A new group of the same ranks and backends; the group itself where it cannot be cloned."""
    if serial < 0:
        return parent
    name, backend = f"dadapt{serial}_{parent.group_name}", dist.get_backend(parent)
    takes = inspect.signature(dist.new_group).parameters  # torch 2.6 sorts the ranks
    order: dict[str, Any] = {"sort_ranks": False} if "sort_ranks" in takes else {}
    try:
        with _named(name), _without_split(parent):
            return dist.new_group(
                dist.get_process_group_ranks(parent),
                timeout=_timeout(parent),
                backend=dist.get_backend_config(parent) if backend == "undefined" else backend,
                use_local_synchronization=True,
                group_desc="dadapt_dist",
                **order,
            )
    except (AttributeError, NotImplementedError, TypeError) as error:
        logger.debug("the sums travel in the model's own process group, which has no second: %s", error)
        return parent


@contextlib.contextmanager
def _named(name: str) -> Iterator[None]:
    """torch names a group that only its members make by how many groups each of them has, which may differ."""
    with patch.object(c10d, "_process_group_name", lambda ranks, use_hashed_name: name):
        yield


@contextlib.contextmanager
def _without_split(parent: Any) -> Iterator[None]:
    """Let NCCL make a communicator of some ranks afresh: to split that of all ranks is a call of all ranks."""
    world = dist.group.WORLD
    bound = None if world is None or parent is world else world.bound_device_id
    if bound is not None and world is not None:
        world.bound_device_id = None
    try:
        yield
    finally:
        if bound is not None and world is not None:
            world.bound_device_id = bound


def _timeout(parent: Any) -> timedelta | None:
    """How long a collective of the group waits; None, torch's own, where the backend does not say."""
    for device in getattr(parent, "_device_types", [torch.device("cpu")]):
        with contextlib.suppress(AttributeError, RuntimeError):
            found = parent._get_backend(device).options._timeout
            if isinstance(found, timedelta):
                return found
    return None


def timeout_of(parent: Any) -> timedelta:
    """How long a collective of the group waits; torch's default, where the backend does not say."""
    return _timeout(parent) or c10d.default_pg_timeout


def _meet(parent: Any, place: str, launches: int) -> bool:
    """Wait through the store until all ranks of a group arrive; return whether all have started equally many reduces."""
    store, ranks = c10d._world.pg_map[parent][1], parent.size()
    key = f"dadapt_dist/{parent.group_name}/{place}"
    store.add(f"{key}/sum", launches)
    store.add(f"{key}/squares", launches * launches)
    if store.add(f"{key}/ranks", 1) == ranks:
        store.set(f"{key}/all", "1")
    _wait(store, key, ranks, _timeout(parent) or timedelta(minutes=30))
    return bool(store.add(f"{key}/squares", 0) * ranks == store.add(f"{key}/sum", 0) ** 2)


def _wait(store: Any, key: str, ranks: int, timeout: timedelta) -> None:
    start, said = time.monotonic(), False
    while True:
        left = timeout.total_seconds() - (time.monotonic() - start)
        try:
            store.wait([f"{key}/all"], timedelta(seconds=max(min(PATIENCE, left), 0.001)))
            return
        except RuntimeError as error:
            text = (
                f"{store.add(f'{key}/ranks', 0)} of {ranks} ranks have come to the step in which parameters are placed"
            )
            if left <= PATIENCE:
                raise RuntimeError(f"{text}, after {timeout.total_seconds():g} s. {ALONE}") from error
            if not said:
                logger.warning("%s; the others are waited for. %s", text, ALONE)
                said = True


ALONE = (
    "All ranks must call step(), also those without parameters, and load checkpoints, add groups and replace parameters "
    "between the same two steps. If this rank trains a model of its own, pass process_group= "
    "with the ranks that train together (dist.new_group([rank]) for one alone)."
)
