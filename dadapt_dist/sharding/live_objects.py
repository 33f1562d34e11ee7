"""The live objects of a class, for frameworks that keep no list of their instances; first those told of by `attach`.

The garbage collector is only asked, never told anything. It does not show what gc.freeze() has set aside.
"""

import gc
import logging
import weakref
from collections.abc import Callable, Iterator
from typing import Any

logger = logging.getLogger(__name__)
ATTACH = "call dadapt_dist.attach({}) before the first step"
PATIENCE = 3  # how often in a row what was found may not fit, before another is searched for
_attached: list["weakref.ref[Any]"] = []
_said: set[str] = set()


def remember(thing: Any) -> None:
    """Let `living` find this object first. Kept weakly.

    Raises:
        TypeError: Nothing can refer weakly to it.
    """
    _attached[:] = [ref for ref in _attached if ref() is not None and ref() is not thing] + [weakref.ref(thing)]


def attached(cls: type) -> list[Any]:
    """The attached objects of a class and its subclasses that still live."""
    return [thing for ref in _attached if issubclass(type(thing := ref()), cls)]


def living(cls: type) -> Iterator[Any]:
    """The live instances of a class and its subclasses: the attached ones, then those that the garbage collector knows."""
    first = attached(cls)
    yield from first
    known = {id(thing) for thing in first}
    yield from (thing for thing in _referrers(cls) if id(thing) not in known)


def is_heap_frozen() -> bool:
    """Whether gc.freeze() hides objects from a search."""
    return gc.get_freeze_count() > 0


def warn_if_hidden(what: str) -> None:
    """Log once, where gc.freeze() may be why nothing was found, how to make `what` known."""
    if is_heap_frozen() and what not in _said:
        _said.add(what)
        logger.warning(
            "no live %s was found, and gc.freeze() hides objects: if there is one, %s", what, ATTACH.format(what)
        )


class Finder:
    """Finds one live object by a costly search, keeps it weakly, and searches ever more seldom while there is none."""

    def __init__(self) -> None:
        self._found: weakref.ref[Any] | None = None
        self._candidates: list[weakref.ref[Any]] = []  # of the last search: one of them may fit later
        self._asked, self._next, self._missed = 0, 1, 0

    def find(self, cls: type, fits: Callable[[Any], bool]) -> Any:
        """The object that was found before, if it still fits, else a live instance of `cls` that does, else None."""
        found = None if self._found is None else self._found()
        if found is not None and fits(found):
            self._missed = 0
            return found
        self._missed += 1
        if found is not None and self._missed < PATIENCE:  # it is alive, and may fit again the next time
            return None
        found = next((thing for ref in self._candidates if (thing := ref()) is not None and fits(thing)), None)
        self._asked += 1
        if found is None:
            if self._asked < self._next:
                return None
            things = list(living(cls))
            self._candidates = [weakref.ref(thing) for thing in things]
            found = next((thing for thing in things if fits(thing)), None)
        self._next = 1 if found is not None else 2 * self._asked
        self._asked = 0 if found is not None else self._asked
        self._found = None if found is None else weakref.ref(found)
        return found


def _referrers(cls: type) -> list[Any]:
    """Every instance refers to its class: the interpreter finds these faster than a loop over all objects would."""
    classes = list(_with_subclasses(cls))
    return [item for item in gc.get_referrers(*classes) if issubclass(type(item), cls)]


def _with_subclasses(cls: type) -> Iterator[type]:
    yield cls
    subclasses: list[type] = type.__subclasses__(cls)
    for below in subclasses:
        yield from _with_subclasses(below)
