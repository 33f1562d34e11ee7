"""Make the Triton kernels of a method from its own code, once for each set of buffers and coefficients.

A kernel is a module in memory, whose text triton reads as it reads a file's: there is no file that somebody could change.
"""

import functools
import hashlib
import linecache
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from torch import Tensor

from ..methods.base import Coefficients, Method
from . import triton_source
from .recorded_method import Kinds, Recorded, recorded
from .traced import names_in, value_of
from .traced_method import Path
from .triton_source import Ways

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Program:
    """The kernels of a method for some buffers and kinds of coefficients, each made at first use."""

    kind: type[Method]
    found: Recorded

    @property
    def coefficients(self) -> tuple[str, ...]:
        """What the kernels are given, by name and in their order."""
        return self.found.coefficients

    def step(self, c: Coefficients) -> Any:
        """The kernel of a step with such coefficients; None, with one log line, where there can be none."""
        return self._kernel("step", _ways(self.found.traced.steps, c))

    def measure(self, c: Coefficients) -> Any:
        """The kernel of the sums before a step; None where there can be none."""
        measures = self.found.traced.measures
        return self._kernel("measure", _ways(measures, c)) if measures else None

    def _kernel(self, name: str, ways: Ways | None) -> Any:
        return None if ways is None else _compiled(self, name, ways)


def program(method: Method, fields: tuple[str, ...], kinds: Kinds) -> Program | None:
    """The program of a method for these buffers; None, with one log line, where there can be none."""
    return _made(type(method), fields, kinds, type(method).update)


@functools.lru_cache(maxsize=256)
def _made(kind: type[Method], fields: tuple[str, ...], kinds: Kinds, update: Callable[..., Any]) -> Program | None:
    """update: that of the class."""
    try:
        return Program(kind, recorded(kind, fields, (), kinds))
    except Exception as error:  # noqa: BLE001 - methods are anybody's, and not written for stand-ins
        logger.debug("%s runs as plain operations, for no kernel can be made of it: %s", kind.name, error)
        return None


def _ways(paths: Sequence[Path], c: Coefficients) -> Ways | None:
    """The ways that such coefficients may lead, of which those on the device are not looked at; None: there is none."""
    conditions = {condition for path in paths for condition, _ in path.guards}
    if not conditions:
        return Ways((0,), frozenset())
    known = {name for name in names_in(conditions) if not isinstance(c[name], Tensor)}
    places = tuple(
        place
        for place, path in enumerate(paths)
        if all(
            not known.issuperset(names_in([condition])) or bool(value_of(condition, c)) is answer
            for condition, answer in path.guards
        )
    )
    return Ways(places, frozenset(known)) if places else None


@functools.lru_cache(maxsize=512)
def _compiled(made: Program, name: str, ways: Ways) -> Any:
    method, found = made.kind, made.found
    try:
        if name == "step":
            sums, scaled = len(method.sums), method.scaled
            text = triton_source.printed(found.traced, found.coefficients, ways, sums, scaled)
        else:
            assert method.before is not None, "nobody measures without sums"
            sums = len(method.before.names)
            text = triton_source.printed_measure(found.traced, found.coefficients, ways, sums)
        return getattr(loaded(text), name)
    except Exception as error:  # noqa: BLE001 - such as a way that cannot be recorded
        logger.debug("%s runs as plain operations, for no kernel can be made of it: %s", method.name, error)
        return None


@functools.lru_cache(maxsize=512)
def loaded(text: str) -> ModuleType:
    """The module of this text, which `inspect` finds in linecache."""
    name = f"<dadapt_dist {hashlib.sha256(text.encode()).hexdigest()[:16]}>"
    linecache.cache[name] = (len(text), None, text.splitlines(keepends=True), name)
    module = ModuleType(name)
    exec(compile(text, name, "exec"), vars(module))
    return module
