"""Run a step inside a function that torch compiles, as one operation that the compiler does not look into.

There is nothing in a step for a compiler to gain: kernels/ are compiled already. But a call that it cannot trace would break
the function into pieces, or raise with fullgraph=True.
"""

import itertools
import weakref
from typing import Any, Protocol

import torch
from torch import Tensor

from ..methods import Method

numbers = itertools.count()
live: "weakref.WeakValueDictionary[int, Any]" = weakref.WeakValueDictionary()
"""The optimizers, by the number by which a compiled function knows each."""


class Traced(Protocol):
    """An optimizer whose steps a compiled function takes. traced: the parameters that are handed to the operation."""

    _number: int
    _traced: list[Tensor]
    _method: Method


# Written out, since torch before 2.7 infers no schema from list[...].
@torch.library.custom_op(
    "dadapt_dist::step",
    mutates_args=("params",),
    schema="(SymInt number, SymInt[] positions, Tensor(a2!)[] params, Tensor[] gradients, Tensor[] loss, Tensor[] result) -> ()",
)
def _step(
    number: int,
    positions: list[int],
    params: list[Tensor],
    gradients: list[Tensor],
    loss: list[Tensor],
    result: list[Tensor],
) -> None:
    """Take a step with these gradients. positions: those of the params among the optimizer's; the first have the gradients.

    loss, result: what was given to step(), and what its closure returned, where there is one.

    params tells the compiler what changes. It may hand in copies, and copy them back afterwards: they get the new values too.
    """
    optimizer = live[number]
    own = [p.grad for p in optimizer._traced]
    for p in optimizer._traced:
        p.grad = None
    moved = [optimizer._traced[position] for position in positions]
    try:
        for p, gradient in zip(moved, gradients, strict=False):
            p.grad = gradient
        optimizer._take_step(*(of[0] if of else None for of in (loss, result)))
    finally:
        for p, gradient_or_none in zip(optimizer._traced, own, strict=True):
            p.grad = gradient_or_none
    for t, p in zip(params, moved, strict=True):
        if t.data_ptr() != p.data_ptr():
            t.copy_(p)


@_step.register_fake
def _(
    number: int,
    positions: list[int],
    params: list[Tensor],
    gradients: list[Tensor],
    loss: list[Tensor],
    result: list[Tensor],
) -> None:
    return None


def step(optimizer: Traced, *losses: Any) -> None:
    """What the compiler sees of a step.

    losses: what was given to step() as the loss, and what its closure returned.
    """
    found = [(i, p, p.grad) for i, p in enumerate(optimizer._traced) if p.grad is not None]
    moved = [(i, p) for i, p, _ in found]
    if type(optimizer._method).tries is not Method.tries:  # which puts back what has no gradient, too
        moved += [(i, p) for i, p in enumerate(optimizer._traced) if p.grad is None and p.requires_grad]
    torch.ops.dadapt_dist.step(
        optimizer._number,
        [i for i, _ in moved],
        [p for _, p in moved],
        [g for _, _, g in found],
        *([] if given is None or not optimizer._method.wants_loss else [torch.as_tensor(given)] for given in losses),
    )
