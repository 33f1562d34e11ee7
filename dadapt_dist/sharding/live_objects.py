"""Which objects of a class are alive? For classes that keep no list of their instances."""

import gc
from collections.abc import Iterator
from typing import Any


def living(cls: type) -> Iterator[Any]:
    """The live instances of a class and its subclasses; last, and only if asked for, those that gc.freeze() has set aside."""
    found = _referrers(cls)
    yield from found
    if gc.get_freeze_count() == 0:
        return
    gc.unfreeze()
    every = _referrers(cls)
    gc.collect()  # garbage would be frozen with the rest
    gc.freeze()
    known = {id(item) for item in found}
    yield from (item for item in every if id(item) not in known)


def _referrers(cls: type) -> list[Any]:
    """Every instance refers to its class: the interpreter finds these faster than a loop over all objects would."""
    classes = list(_with_subclasses(cls))
    return [item for item in gc.get_referrers(*classes) if issubclass(type(item), cls)]


def _with_subclasses(cls: type) -> Iterator[type]:
    yield cls
    subclasses: list[type] = type.__subclasses__(cls)
    for below in subclasses:
        yield from _with_subclasses(below)
