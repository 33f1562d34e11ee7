"""Finds what stands inside the wrappers that programs put around optimizers, however deep, and without going round in circles."""

from collections.abc import Iterator
from types import ModuleType
from typing import Any

_ONE = ("optimizer", "optim", "_base_optimizer")
"""Attributes that hold one optimizer: of Accelerate, DeepSpeed, Lightning and others; torchft; timm's Lookahead."""
_SEVERAL = "optimizers"
"""Attribute that holds a list of them, or of lists: torchtitan's container, a Lightning Trainer."""
DEEPEST = 64
"""Layers after which an object that makes a new one whenever it is asked is left alone."""


def innermost(thing: Any) -> Iterator[tuple[Any, ...]]:
    """For each object inside of which there is no other: the layers that lead to it, the outermost first. Each object once.

    Args:
        thing: An optimizer, or anything that holds one.

    Example:
        >>> from types import SimpleNamespace as Wrapper
        >>> two = Wrapper(optimizers=[1, Wrapper(optim=2)])  # numbers in the place of optimizers
        >>> [layers[-1] for layers in innermost(Wrapper(optimizer=two))]
        [1, 2]
    """
    yield from _walk((thing,), {id(thing)})


def layers_of(thing: Any) -> list[Any]:
    """The thing and all that stands inside it, each once."""
    found = {id(layer): layer for layers in innermost(thing) for layer in layers}
    return list(found.values())


def _walk(layers: tuple[Any, ...], seen: set[int]) -> Iterator[tuple[Any, ...]]:
    inside = list(_inside(layers[-1])) if len(layers) < DEEPEST else []
    if all(any(one is layer for layer in layers) for one in inside):  # none, or it points back at what holds it
        yield layers
    for one in inside:
        if id(one) not in seen:
            seen.add(id(one))
            yield from _walk((*layers, one), seen)


def _inside(thing: Any) -> Iterator[Any]:
    """What an object holds directly."""
    for name in _ONE:
        one = getattr(thing, name, None)
        if _may_be(one):
            yield one
            return
    yield from _members(getattr(thing, _SEVERAL, None))


def _members(several: Any) -> Iterator[Any]:
    if isinstance(several, (list, tuple)):
        for member in several:
            if isinstance(member, (list, tuple)):
                yield from _members(member)
            else:
                yield member


def _may_be(one: Any) -> bool:
    """Whether it may be an optimizer or hold one: no name of one, no class, no module or function called so."""
    return one is not None and not isinstance(one, (str, type, ModuleType)) and not hasattr(type(one), "__get__")
