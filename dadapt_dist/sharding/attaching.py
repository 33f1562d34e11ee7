"""The explicit way to make a framework's objects known."""

from collections.abc import Iterator
from typing import Any

from torch.amp import GradScaler
from torch.distributed.algorithms.join import Join

from .live_objects import remember
from .registry import parts_of


def attach(thing: Any) -> None:
    """Make an object of a framework known before the first step, instead of having it searched for.

    Optimizers are given tensors, and some facts about these stand only in a framework's objects. They are found by a search
    among the live objects of the process, once, at the first step. `gc.freeze()` hides objects from that search, and then a
    warning or an error asks for this call. It is harmless where it is not needed. Only weak references are kept.

    Args:
        thing: A DeepSpeed engine; a model of FullyShardedDataParallel (FSDP1) or DistributedDataParallel, or one that contains
            such modules; a torch.amp.GradScaler; an Accelerator, or an optimizer that it prepared; a Lightning Trainer, once
            training has begun (`on_train_start`); a torch `Join`. FSDP2 and tensor parallelism need no call.

    Raises:
        TypeError: It is none of these, and contains none.

    Example:
        >>> import torch, dadapt_dist
        >>> scaler = torch.amp.GradScaler("cpu")
        >>> dadapt_dist.attach(scaler)
    """
    found = list(_parts(thing, {id(thing)}))
    if not found:
        raise TypeError(
            f"{type(thing).__name__} holds nothing to attach: give a DeepSpeed engine, an FSDP1 or DDP model, a GradScaler, an "
            "Accelerator, or a Lightning Trainer in training. FSDP2, tensor parallelism and plain models need no attach()."
        )
    for part in found:
        remember(part)


def _parts(thing: Any, seen: set[int]) -> Iterator[Any]:
    if isinstance(thing, (GradScaler, Join)):
        yield thing
    for part in parts_of(thing):
        if part is thing:
            yield part
        elif id(part) not in seen:
            seen.add(id(part))
            yield part
            yield from _parts(part, seen)
