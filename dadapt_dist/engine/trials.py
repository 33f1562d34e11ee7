"""Put tensors back to where they started that trial steps have moved, and that the step that puts back does not move."""

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from ..kernels import eager
from ..methods import Method
from ..methods.base import Options, Scalars
from .local_step import Entries, Window
from .members import MovesTensors
from .option_sets import STAYS, Lots
from .per_tensor import TensorLots
from .state.buffers import is_unmoved


class Trials:
    """Knows on the host whether trial steps, or one that puts back, may still be to come. A copy has to find out anew.

    over: they are not.
    """

    def __init__(self) -> None:
        self.over = False
        self._asked: Tensor | None = None  # the answer, on the host; NaN while it is on its way

    def __reduce__(self) -> tuple[type["Trials"], tuple[()]]:
        return Trials, ()

    def begin_again(self) -> None:
        """Look again: there are other estimates, or other scalars of them."""
        self.over, self._asked = False, None

    def put_back(
        self, method: Method, values: Scalars, groups: Iterable[Options], members: Iterable[Any], window: Window
    ) -> None:
        """Where this step puts back, do so with what it did not move. Before its scalars advance. Waits for no device.

        values: the scalars of all estimates. members: the optimizers that share them.
        """
        if window.skipped or self._are_over(method, values, groups):
            return
        for member in members:
            member._put_back(came=id(member) in window.arrived or member._brought_by.in_pieces)

    def _are_over(self, method: Method, values: Scalars, groups: Iterable[Options]) -> bool:
        if not any(map(method.tries, groups)):
            self.over = True
            return True
        if self._asked is None:
            trying = method.is_trying(values)
            self._asked = torch.full((), math.nan, dtype=torch.float64, device="cpu")
            if trying.device.type == "cuda":
                self._asked = self._asked.pin_memory()
            self._asked.copy_(trying, non_blocking=True)
        if not bool(self._asked.isnan()):
            self.over, self._asked = not bool(self._asked), None
        return self.over


def put_back(
    optimizer: MovesTensors, entries: Entries, lots: Lots | TensorLots, *, came: bool, squares: Tensor | None
) -> None:
    """Where this step puts back, do so with the tensors that it has not: those without a gradient, or with lr 0.

    entries, lots, squares: as of `sweep`, of all groups. came: has the optimizer taken its part of this step?
    """
    table = optimizer.step_size._scalars
    for (group, params), lot in zip(entries, lots.of, strict=True):
        left = [p for p in params if (not came or lot == STAYS or p.grad is None) and p in optimizer.state]
        for p in left if optimizer._method.tries(group) else ():
            parts = optimizer.step_size._shards.parts(p)
            if is_unmoved(optimizer, p) or not parts or not all(place.is_in_memory(p) for place, _ in parts):
                continue
            returns = optimizer._method.puts_back(group, table.on(p.device, table.row(group["estimate"])))
            if not (eager.readable(p.device) and not bool(returns)):
                _return(optimizer, p, group, returns)
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
    if start is None:  # the estimate is frozen, and so are its trials
        return
    for place, _ in optimizer.step_size._shards.parts(p):
        x, begin = place.part(p).detach(), place.part(start)
        x.copy_(torch.where(returns, begin.to(x.dtype), x))
        for init, t in buffers.values():
            if init != "param":
                part = place.part(t)
                part.copy_(torch.where(returns, float(init), part))
