"""The registered framework adapters, in the order in which they are asked."""

from collections.abc import Iterator, Sequence
from typing import Any

from torch import Tensor
from torch.amp import GradScaler
from torch.distributed.algorithms.join import Join
from torch.optim import Optimizer

from ..errors import PlacementError
from .dtensor import DTensorAdapter
from .framework import NO_FRAMEWORK, FrameworkAdapter
from .fsdp1 import FSDP1Adapter
from .live_objects import remember
from .replicated import ReplicatedAdapter
from .shard import LocalShard
from .unwrapping import layers_of

adapters: list[FrameworkAdapter] = [DTensorAdapter(), FSDP1Adapter(), ReplicatedAdapter()]
"""All of them, in that order."""


def register(adapter: FrameworkAdapter) -> None:
    """Ask this adapter, too, from now on. One with the same name is replaced, so that a second import changes nothing.

    Args:
        adapter: Asked after torch's own kinds of parameters and before the one that takes all the rest.

    Example:
        >>> from dadapt_dist.sharding import FrameworkAdapter, register
        >>> class Mine(FrameworkAdapter):
        ...     name = "mine"
        >>> register(Mine())
    """
    unregister(adapter.name)
    adapters.insert(len(adapters) - 1, adapter)


def unregister(name: str) -> None:
    """Ask the adapter of this name no more, if there is one."""
    adapters[:] = [known for known in adapters if known.name != name]


def resolve(params: Sequence[Tensor]) -> list[list[LocalShard]]:
    """Ask the adapters, in order, where each parameter lives; raise PlacementError for one that cannot be placed.

    A flat tensor that a framework has packed has a placement for each parameter in it, others have one.
    """
    found: dict[int, list[LocalShard]] = {}
    for adapter in adapters:
        rest = [p for p in params if id(p) not in found]
        try:
            placements = adapter.place(rest)
        except ValueError as error:
            raise PlacementError(str(error)) from error
        for p, placement in zip(rest, placements, strict=True):
            if placement is not None:
                found[id(p)] = [placement] if isinstance(placement, LocalShard) else placement
    return [found[id(p)] for p in params]


def _with(hook: str) -> list[FrameworkAdapter]:
    """The adapters that have a hook of their own: the others' does nothing."""
    default = getattr(FrameworkAdapter, hook)
    return [adapter for adapter in adapters if getattr(type(adapter), hook) is not default]


def bind(optimizer: Optimizer) -> FrameworkAdapter:
    """The adapter of the framework that holds this optimizer; the null default where none does."""
    return next((found for adapter in _with("bind") if (found := adapter.bind(optimizer)) is not None), NO_FRAMEWORK)


def refuse(params: Sequence[Tensor]) -> None:
    """Raise ValueError for what cannot work with these parameters, before this rank waits for any other."""
    for adapter in _with("refuse"):
        adapter.refuse(params)


def tensor_parallel_ranks(params: Sequence[Tensor]) -> Sequence[int]:
    """The ranks that are certain to be tensor parallel with this one, itself among them; none where no framework knows any."""
    found = (adapter.tensor_parallel_ranks(params) for adapter in _with("tensor_parallel_ranks"))
    return next((ranks for ranks in found if ranks), ())


def forget_copies(params: Sequence[Tensor]) -> None:
    """Let the frameworks drop what they still hold of the values that these parameters had."""
    for adapter in _with("forget_copies"):
        adapter.forget_copies(params)


def unscales_itself(optimizer: Optimizer) -> bool:
    """Whether a trainer of some framework holds this optimizer and unscales its gradients itself."""
    return any(adapter.unscales_itself(optimizer) for adapter in _with("unscales_itself"))


def attach(thing: Any) -> None:
    """Make an object of a framework known before the first step, instead of having it searched for.

    Optimizers are given tensors, and some facts about these stand only in a framework's objects. They are found by a search
    among the live objects of the process, once, at the first step. `gc.freeze()` hides objects from that search, and then a
    warning or an error asks for this call. It is harmless where it is not needed. Only weak references are kept.

    Args:
        thing: A DeepSpeed engine; a model of FullyShardedDataParallel (FSDP1) or DistributedDataParallel, or one that contains
            such modules; a torch.amp.GradScaler; an Accelerator, or an optimizer that it prepared, in any wrapper; a Lightning
            Trainer, once training has begun (`on_train_start`); a torch `Join`. FSDP2 needs a call for methods with `eval()` and
            `train()` alone, tensor parallelism none.

    Raises:
        TypeError: It is none of these, and contains none.

    Example:
        >>> import torch, dadapt_dist
        >>> scaler = torch.amp.GradScaler("cpu")
        >>> dadapt_dist.attach(scaler)
    """
    seen = {id(thing)}
    found = [part for layer in layers_of(thing) for part in _parts(layer, seen)]
    if not found:
        raise TypeError(
            f"{type(thing).__name__} holds nothing to attach: give a DeepSpeed engine, an FSDP1 or DDP model, a GradScaler, an "
            "Accelerator, or a Lightning Trainer in training. Tensor parallelism and plain models need no attach()."
        )
    for part in found:
        remember(part)


def _parts(thing: Any, seen: set[int]) -> Iterator[Any]:
    if isinstance(thing, (GradScaler, Join)):
        yield thing
    for part in (part for adapter in _with("parts_of") for part in adapter.parts_of(thing)):
        if part is thing:
            yield part
        elif id(part) not in seen:
            seen.add(id(part))
            yield part
            yield from _parts(part, seen)
