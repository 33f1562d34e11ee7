"""Put tensors back to where they started that trial steps have moved, and that have no gradient in the step that puts back."""

import torch
from torch import Tensor

from ..kernels import eager
from ..methods.base import Options
from .local_step import Entries
from .members import MovesTensors
from .option_sets import STAYS, Lots
from .per_tensor import TensorLots
from .state.buffers import is_unmoved


def put_back(
    optimizer: MovesTensors, entries: Entries, lots: Lots | TensorLots, *, skip: Tensor | None, squares: Tensor | None
) -> None:
    """Where this step puts back, do so with the tensors that it does not move: those without a gradient, or with lr 0.

    entries, lots, skip, squares: as of `sweep`, after it. Waits for no device.
    """
    table = optimizer.step_size._scalars
    for (group, params), lot in zip(entries, lots.of, strict=True):
        left = [p for p in params if (lot == STAYS or p.grad is None) and p in optimizer.state]
        row = table.row(group["estimate"]) if left else 0
        for p in (p for p in left if not is_unmoved(optimizer, p)):
            parts = optimizer.step_size._shards.parts(p)
            if not parts or not all(place.is_in_memory(p) for place, _ in parts):
                continue
            returns = optimizer._method.puts_back(group, table.on(p.device, row))
            if not (eager.readable(p.device) and not bool(returns)):
                _return(optimizer, p, group, returns if skip is None else returns & ~skip.to(p.device))
                if squares is not None and optimizer.step_size._rms is not None:
                    optimizer.step_size._rms.measure_again(optimizer.step_size._shards, p)


def _return(optimizer: MovesTensors, p: Tensor, group: Options, returns: Tensor) -> None:
    """Give x and its buffers their first values, where the 0-dim bool says so."""
    buffers = {
        name: (spec.init, optimizer.state[p][name])
        for name, spec in optimizer._method.buffers(group).items()
        if name in optimizer.state[p]
    }
    start = next((t for init, t in buffers.values() if init == "param"), None)
    if start is None:  # the estimate is frozen, and so is the probe
        return
    for place, _ in optimizer.step_size._shards.parts(p):
        x, begin = place.part(p).detach(), place.part(start)
        x.copy_(torch.where(returns, begin.to(x.dtype), x))
        for init, t in buffers.values():
            if init != "param":
                part = place.part(t)
                part.copy_(torch.where(returns, float(init), part))
