"""The registered framework adapters, in the order in which they are asked."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from .dtensor import DTensorAdapter
from .framework import NO_FRAMEWORK, FrameworkAdapter
from .fsdp1 import FSDP1Adapter
from .replicated import ReplicatedAdapter

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


def forget_copies(params: Sequence[Tensor]) -> None:
    """Let the frameworks drop what they still hold of the values that these parameters had."""
    for adapter in _with("forget_copies"):
        adapter.forget_copies(params)


def unscales_itself(optimizer: Optimizer) -> bool:
    """Whether a trainer of some framework holds this optimizer and unscales its gradients itself."""
    return any(adapter.unscales_itself(optimizer) for adapter in _with("unscales_itself"))


def parts_of(thing: Any) -> list[Any]:
    """The objects inside `thing` that some adapter looks for among the live ones."""
    return [part for adapter in _with("parts_of") for part in adapter.parts_of(thing)]
