"""Warn when no parameter receives a gradient, for example after a framework replaced the parameters."""

import logging

import torch
from torch import Tensor

logger = logging.getLogger(__name__)
PATIENCE = 5


class IdleReport:
    """Warns, once, when no rank had a gradient other than 0 in the first PATIENCE steps with lr > 0.

    Looks no further once there was one. Reads host copies that an earlier step sent off, and waits for the device only when
    they still say after PATIENCE steps that there was none.
    """

    def __init__(self) -> None:
        self._any = torch.zeros((), dtype=torch.bool, device="cpu")
        self._sums: list[Tensor] = []
        self.watching = True

    def live_on(self, device: torch.device) -> None:
        """Prepare for sums that come from this device; only a copy to pinned memory does not wait."""
        if device.type == "cuda":
            self._any = self._any.pin_memory()

    def note(self, sums: Tensor, moves: bool, overflow: Tensor | None) -> None:
        """Look at the global sums of a step.

        Args:
            sums: float64 [n_estimates, width].
            moves: Has the step an lr above 0?
            overflow: 0-dim bool, true for a step that was left out and so has no sums; None without a GradScaler.
        """
        if self.watching and moves:
            self._sums.append(sums.any() if overflow is None else sums.any() | overflow.to(sums.device))
            self._any.copy_(self._sums[-1], non_blocking=True)

    def say(self) -> None:
        """Warn, when there is reason to."""
        if not self.watching or not self._sums:
            return
        if bool(self._any):
            self.watching = False
        elif len(self._sums) >= PATIENCE:
            self.watching = False
            if not bool(torch.stack(self._sums).any()):
                _warn()
        if not self.watching:
            self._sums = []


def _warn() -> None:
    logger.warning(
        "no rank had a gradient other than 0 in %d steps: nothing trains. Are these the parameters that the model has now? "
        "FSDP1 with use_orig_params=False makes new ones: build the optimizer after wrapping, or set use_orig_params=True "
        "(with Accelerate: fsdp_use_orig_params: true, or prepare the model before the optimizer is built).",
        PATIENCE,
    )
