"""Leave out a step whose gradients are not finite or overflow under a GradScaler, on all ranks alike."""

import logging
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from ..comm.async_all_reduce import Reduce
from ..errors import NonFiniteError
from .amp import Finding
from .local_step import Window

logger = logging.getLogger(__name__)


class Overflows:
    """Lets all ranks leave out a step in which the scaler of one of them found an overflow. Never waits for a device."""

    def __init__(self) -> None:
        self._apart = torch.zeros(
            (), dtype=torch.bool, device="cpu"
        )  # on the host: did only another rank's scaler find one?
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


def check_scales(members: Iterable[Any]) -> None:
    """Raise RuntimeError where gradients of all optimizers are needed, and only of some it is known how they are scaled."""
    if len({getattr(member, "grad_scale", None) is None for member in members}) > 1:
        raise RuntimeError(
            "the sums of all optimizers that share this StepSize are needed before the first of them steps, and a GradScaler "
            "unscales each one's gradients in its own step. Call scaler.unscale_(optimizer) for every one of them first."
        )


def decide(window: Window, reduced: Tensor, reduce: Reduce) -> None:
    """Skip the step, on all ranks alike, when these global sums of it are not finite; keep them for its end otherwise."""
    window.reduced = reduced
    if reduce.differ is not None and reduce.agreement.is_apart(reduce.differ):
        return  # these are no sums of one step: d is held, and the finite elements train
    clean = torch.isfinite(reduced).all(1) & (reduced[:, -1] == 0)
    window.skipped = not bool(clean.all())
    if window.skipped:  # estimates whose own gradients are finite stay too; they are not held by them
        window.reduced = torch.where(clean.unsqueeze(1), 0.0, reduced)


def refuse(window: Window, step: int, nonfinite: str | None) -> None:
    """Raise, on all ranks alike, for the losses of a step, and NonFiniteError with nonfinite="raise" when it is to be skipped."""
    if window.fault is not None:
        raise ValueError(window.fault)
    if nonfinite == "raise" and window.skipped and window.reduced is not None:
        elements = int(window.reduced[:, -1].sum().nan_to_num())
        raise NonFiniteError(
            f"{elements} gradient elements are not finite, or so large that they would overflow, in step {step} (0: a sum "
            "overflowed, or the loss, where the method uses it, is not finite). Nothing has moved on any rank. "
            'nonfinite="skip" leaves such steps out, "hold" trains the finite elements.'
        )
