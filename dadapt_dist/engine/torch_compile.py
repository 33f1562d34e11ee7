"""Run a step inside a function that torch compiles, as one operation that the compiler does not look into.

There is nothing in a step for a compiler to gain: kernels/ are compiled already. But a call that it cannot trace would break
the function into pieces, or raise with fullgraph=True.
"""

import itertools
import weakref
from typing import Any, Protocol

import torch
from torch import Tensor

from ..sharding.dtensor_type import is_dtensor

_numbers = itertools.count()
_live: "weakref.WeakValueDictionary[int, Any]" = weakref.WeakValueDictionary()


class Traced(Protocol):
    """An optimizer whose steps a compiled function takes. traced: the parameters that are handed to the operation."""

    number: int
    traced: list[Tensor]


def enroll(optimizer: object) -> int:
    """A number by which a compiled function knows the optimizer."""
    number = next(_numbers)
    _live[number] = optimizer
    return number


def traceable(params: list[Tensor]) -> list[Tensor]:
    """The parameters that are handed to the operation; none where some are DTensors, whose steps stay outside the graph."""
    return [] if any(is_dtensor(p) for p in params) else params


# Written out, since torch before 2.7 infers no schema from list[...].
@torch.library.custom_op(
    "dadapt_dist::step",
    mutates_args=("params",),
    schema="(SymInt number, SymInt[] positions, Tensor(a2!)[] params, Tensor[] gradients) -> ()",
)
def _step(number: int, positions: list[int], params: list[Tensor], gradients: list[Tensor]) -> None:
    """Take a step with these gradients. positions: which of the optimizer's parameters they belong to.

    params tells the compiler what changes. It may hand in copies, and copy them back afterwards: they get the new values too.
    """
    optimizer = _live[number]
    own = [p.grad for p in optimizer.traced]
    for p in optimizer.traced:
        p.grad = None
    moved = [optimizer.traced[position] for position in positions]
    try:
        for p, gradient in zip(moved, gradients, strict=True):
            p.grad = gradient
        optimizer.take()
    finally:
        for p, gradient_or_none in zip(optimizer.traced, own, strict=True):
            p.grad = gradient_or_none
    for t, p in zip(params, moved, strict=True):
        if t.data_ptr() != p.data_ptr():
            t.copy_(p)


@_step.register_fake
def _(number: int, positions: list[int], params: list[Tensor], gradients: list[Tensor]) -> None:
    return None


def step(optimizer: Traced) -> None:
    """What the compiler sees of a step."""
    found = [(i, p, p.grad) for i, p in enumerate(optimizer.traced) if p.grad is not None]
    torch.ops.dadapt_dist.step(
        optimizer.number, [i for i, _, _ in found], [p for _, p, _ in found], [g for _, _, g in found]
    )
