"""Leave out a step whose gradients overflow under a GradScaler, on all ranks alike."""

import logging
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from ..comm.async_all_reduce import Reduce
from ..kernels import eager
from .amp import Finding

logger = logging.getLogger(__name__)


class Overflows:
    """Lets all ranks leave out a step in which the scaler of one of them found an overflow. Never waits for a device."""

    def __init__(self) -> None:
        self._apart = torch.zeros((), dtype=torch.bool)  # on the host: did only another rank's scaler find one?
        self._said = False

    def agree(self, finding: Finding, reduce: Reduce, device: torch.device) -> Tensor:
        """Return whether any rank's scaler found an overflow (0-dim bool). Collective, if there are several ranks.

        The scalers of all ranks then go by that. Where the ranks are in different steps, which is reported elsewhere, each
        goes by its own.
        """
        own = torch.as_tensor(finding.found).detach().to(device) > 0
        if reduce.ranks == 1:
            return own
        self._say()
        total = reduce.now(own.to(torch.float64).view(1)).view(())
        overflow = torch.where(total.isnan(), own, total > 0)
        if finding.spread(overflow):
            return overflow
        if device.type == "cuda" and not self._apart.is_pinned():  # only a copy to pinned memory does not wait
            self._apart = self._apart.pin_memory()
        self._apart.copy_(overflow & ~own, non_blocking=True)
        return overflow

    def _say(self) -> None:
        if not self._said and bool(self._apart):
            self._said = True
            logger.warning(
                "another rank's GradScaler found an overflow that this rank's did not. The step was left out on all ranks, "
                "but their loss scales are no longer the same, and gradients that are averaged over the ranks are wrong by "
                "that. With FSDP1 use torch.distributed.fsdp.sharded_grad_scaler.ShardedGradScaler."
            )


class StepCount:
    """The number of steps taken, without those that overflowed, which are counted on their device.

    shown: the count as the host knows it, a 0-dim int64 tensor on the CPU that parameter groups hold.
    """

    def __init__(self) -> None:
        with torch.inference_mode(False):  # tensors of that mode count no writes
            self.shown = torch.zeros((), dtype=torch.int64)
        self.reset(0)

    def reset(self, count: int) -> None:
        """Count on from here."""
        self.count = self._least = count  # count: with those that overflowed since `read`
        self._overflowed: Tensor | None = None
        self._show()

    def _show(self) -> None:
        self.shown.fill_(self.count)
        self._version = self.shown._version

    def written(self) -> int | None:
        """The number that somebody has written into `shown`, which then shows the count again; None without one."""
        if self.shown._version == self._version:
            return None
        given = int(self.shown)
        self._show()
        return given

    def add(self, moves: bool, overflow: Tensor | None) -> None:
        """Count a step that moves something, if it did not overflow (None: nobody looked)."""
        if not moves:
            return
        if overflow is not None and eager.readable(overflow.device):
            self.count += not bool(overflow)
        else:
            self.count += 1
        self._show()
        if overflow is not None and not eager.readable(overflow.device):
            self._overflowed = overflow.to(torch.int64) + (0 if self._overflowed is None else self._overflowed)

    def read(self) -> int:
        """The number; waits for the device when a scaler has looked at a step since the last call."""
        if self._overflowed is not None:
            self.count -= int(self._overflowed)
            self._overflowed = None
            self._show()
        self._least = self.count
        return self.count

    def reached(self, limit: int) -> bool:
        """Return whether the number is at least `limit`. Waits for the device at most once for each overflow, and once more."""
        return self._least >= limit or (self.count >= limit and self.read() >= limit)


def check_scales(members: Iterable[Any]) -> None:
    """Raise RuntimeError where gradients of all optimizers are needed, and only of some it is known how they are scaled."""
    if len({getattr(member, "grad_scale", None) is None for member in members}) > 1:
        raise RuntimeError(
            "the sums of all optimizers that share this StepSize are needed before the first of them steps, and a GradScaler "
            "unscales each one's gradients in its own step. Call scaler.unscale_(optimizer) for every one of them first."
        )
