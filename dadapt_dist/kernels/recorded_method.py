"""A method recorded with some buffers and some kinds of coefficients: what the kernels of a CPU and of a GPU are made of."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..methods.base import Method
from .traced import Node, UntraceableError, names_in
from .traced_method import Traced, traced

NUMBER = float
"""Stands for a coefficient that is a number, whatever it is."""
OTHER = object
"""Stands for a coefficient of which no kernel can be made, such as a vector."""
Kinds = tuple[tuple[str, Any], ...]
"""Of each coefficient NUMBER, or its value where that is no number: None, or what the method makes of it."""


@dataclass(frozen=True, eq=False)
class Recorded:
    """The graphs, and what they are given.

    coefficients: by name, in the order of the kernels. for_all: those that a step needs alike for all tensors, since sums are
    multiplied by them.
    """

    traced: Traced
    coefficients: tuple[str, ...]
    for_all: frozenset[str]


def recorded(kind: type[Method], fields: tuple[str, ...], sliced: tuple[str, ...], kinds: Kinds) -> Recorded:
    """Record a method. Raises UntraceableError, or whatever a method raises that cannot work with stand-ins."""
    given = {name: 1.0 if value is NUMBER else value for name, value in kinds}
    if OTHER in given.values():
        raise UntraceableError("a coefficient is neither a number, nor a text, nor None")
    found = traced(kind(), fields, sliced, given)
    also = [kind.scaled] if dict(kinds).get(kind.scaled) is NUMBER else []
    for_all = frozenset(names_in(node for step in found.steps for node in step.scalars()))
    return Recorded(found, coefficients_of(found, also), for_all)


def coefficients_of(traced: Traced, also: Sequence[str] = ()) -> tuple[str, ...]:
    """The coefficients that kernels read, in their order. also: those that shall be among them."""
    nodes: list[Node] = []
    for step in traced.steps:
        nodes += [*step.raw_sums, *step.written.values(), *step.tried.values(), *step.squared, *step.multiplied]
    for path in (*traced.steps, *traced.measures):
        nodes += [*path.raw_sums, *path.scalars()]
    return tuple(dict.fromkeys([*names_in(nodes), *also]))


def sums_of(traced: Traced) -> int:
    """How many numbers a call adds up at most."""
    return max(len(path.raw_sums) for path in (*traced.steps, *traced.measures))
