"""Buffers that a parameter is evaluated at: they take turns with it, and follow it in steps that do not move it."""

from collections.abc import Collection, Iterable
from typing import Any

import torch
from torch import Tensor

from .. import kernels
from ..kernels import TensorTask
from ..sharding.shard import LocalShard
from .local_step import Entries, Window, coefficients
from .members import MovesTensors
from .option_sets import STAYS, Lots
from .per_tensor import TensorLots
from .state.buffers import is_unmoved
from .state.param_state import described

HALF, LOW = 1 << 15, (1 << 16) - 1


def check_dtypes(optimizer: MovesTensors, entries: Iterable[tuple[dict[str, Any], Tensor]]) -> None:
    """Raise ValueError where a parameter's dtype has changed since its buffer was made, and the two cannot change places."""
    for group, p in entries:
        name = optimizer._method.shown(group)
        if name is None:
            continue
        dtype = optimizer.state[p][name].dtype
        if p.dtype != dtype and (p.dtype, dtype) != (torch.bfloat16, torch.float32):
            raise ValueError(
                f"{described(p, optimizer.param_groups)} has dtype {p.dtype}, and its {name} {dtype}: it has changed since. "
                "Give it the dtype of before, or remove its state, optimizer.state.pop(p): it then starts afresh."
            )


def exchange(optimizer: MovesTensors, p: Tensor, place: LocalShard, name: str, back: bool) -> None:
    """Let a part of a parameter and this buffer of it change places. Back and forth gives both their bits again.

    back: from evaluation to training.
    """
    x, t = place.part(p.detach()), place.part(optimizer.state[p][name])
    for block in kernels.eager.blocks(TensorTask(x=x, g=x, buf={name: t})):
        _swap(block.x, block.buf[name], back)


def _swap(x: Tensor, t: Tensor, back: bool) -> None:
    """In place. x in bfloat16 beside t in float32 becomes t rounded to nearest, and t has room for the bits of both:

    the upper half of a float32 is a bfloat16. In training t is upper·2^16 + lower, and x rounds it up where lower is 2^15 or
    more. In evaluation x is the rounded upper half, and t is x as it trains in the upper half, beside the lower one.
    """
    if x.dtype == t.dtype:
        kept = x.clone()
        x.copy_(t)
        t.copy_(kept)
        return
    bits, wide = x.view(torch.int16), t.view(torch.int32)
    lower, shown, kept = wide & LOW, bits.to(torch.int32), wide >> 16
    rounds_up = lower >> 15
    if back:
        bits.copy_(kept)
        wide.copy_(((shown - rounds_up) << 16) | lower)
    else:
        bits.copy_(kept + rounds_up)
        wide.copy_((shown << 16) | lower)


def rest(
    optimizer: MovesTensors,
    entries: Entries,
    lots: Lots | TensorLots,
    *,
    moving: Collection[str],
    came: bool,
    skip: Tensor | None,
) -> None:
    """Let the shown buffers of what a step does not move follow it: of tensors without a gradient, with lr 0 or frozen since.

    Before the scalars advance. Waits for no device.

    Args:
        optimizer: The optimizer.
        entries: Groups with their tensors.
        lots: Of the groups.
        moving: Names of the estimates of which something moves in this step.
        came: Has the optimizer taken its part of the step? Else none of its tensors has moved.
        skip: 0-dim bool; true: everything stays. None: nobody looked.
    """
    if skip is not None and kernels.eager.readable(skip.device) and bool(skip):
        return
    for (group, params), lot in zip(entries, lots.of, strict=True):
        name = optimizer._method.shown(group)
        if name is None or group["estimate"] not in moving:
            continue
        c: dict[torch.device, dict[str, Any]] = {}
        for p in params:
            if came and lot != STAYS and p.grad is not None:
                continue
            if name in (optimizer.state.get(p) or ()) and not is_unmoved(optimizer, p):
                if p.device not in c:
                    c[p.device] = kernels.eager.numbers(coefficients(optimizer, group, p.device), p.device)
                _rest(optimizer, p, name, c[p.device], skip)


def rest_others(members: Iterable[Any], window: Window) -> None:
    """Let the shown buffers of the optimizers that had no part in a step follow it, as `rest`. Before the scalars advance."""
    for member in members:
        if not window.skipped and id(member) not in window.arrived and not member._brought_by.in_pieces:
            member._rest_out(window.overflows)


def _rest(optimizer: MovesTensors, p: Tensor, name: str, c: dict[str, Any], skip: Tensor | None) -> None:
    for place, _ in optimizer.step_size._shards.parts(p):
        if place.is_in_memory(p):
            t = place.part(optimizer.state[p][name])
            before = None if skip is None else t.clone()
            optimizer._method.rest(place.part(p.detach()).to(t.dtype), {name: t}, c)
            if before is not None and skip is not None:
                t.copy_(torch.where(skip.to(t.device), before, t))
