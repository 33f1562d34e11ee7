"""Make the compiled functions of a method from its own code, once for each set of buffers and coefficients."""

import ctypes
import functools
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..methods.base import Method
from . import cpu_c_library, cpu_c_source
from .recorded_method import Kinds, recorded, sums_of
from .traced import UntraceableError
from .traced_method import Traced

logger = logging.getLogger(__name__)

BUFFERS, SUMS, COEFFICIENTS = 12, 16, 32  # the sizes of cpu_c_method.h


@dataclass(frozen=True, eq=False)
class Program:
    """The compiled functions of a method, and what they are given.

    coefficients: by name, in their order. for_all: those that a step needs alike for all tensors, since sums are multiplied by
    them. library: it keeps the functions in memory.
    """

    traced: Traced
    coefficients: tuple[str, ...]
    for_all: frozenset[str]
    library: ctypes.CDLL


def program(method: Method, fields: tuple[str, ...], sliced: tuple[str, ...], kinds: Kinds) -> Program | None:
    """The program of a method for these buffers; None, with one log line, where there can be none.

    kinds: of each coefficient NUMBER, or its value where that is no number: None, or what the method makes of it.
    """
    harness = cpu_c_library.load()
    return None if harness is None else _made(type(method), fields, sliced, kinds, harness, type(method).update)


@functools.lru_cache(maxsize=256)
def _made(
    kind: type[Method],
    fields: tuple[str, ...],
    sliced: tuple[str, ...],
    kinds: Kinds,
    harness: ctypes.CDLL,
    update: Callable[..., Any],
) -> Program | None:
    """harness: the library that calls the functions; another one after the first was dropped. update: that of the class."""
    try:
        found = recorded(kind, fields, sliced, kinds)
        if len(found.coefficients) > COEFFICIENTS or sums_of(found.traced) >= SUMS:
            raise UntraceableError("it has more coefficients or sums than the compiled step can take")
        header = cpu_c_library.HEADER.read_text(encoding="utf-8")
        text = cpu_c_source.printed(found.traced, found.coefficients, header)
    except Exception as error:  # noqa: BLE001 - methods are anybody's, and not written for stand-ins
        logger.debug("%s runs as plain operations, for no kernel can be made of it: %s", kind.name, error)
        return None
    library = cpu_c_library.load(text)
    return None if library is None else Program(found.traced, found.coefficients, found.for_all, library)
