"""Who is told, and how often, that a step was held because a gradient was not finite?"""

import logging

import torch
from torch import Tensor

logger = logging.getLogger(__name__)


class HeldReport:
    """Logs the first held step, once. Never waits for a device: it reads a host copy that an earlier step sent off."""

    def __init__(self) -> None:
        self._held = torch.zeros((), dtype=torch.float64)
        self._said = False

    def live_on(self, device: torch.device) -> None:
        """Prepare for counts that come from this device; only a copy to pinned memory does not wait."""
        if device.type == "cuda":
            self._held = self._held.pin_memory()

    def note(self, held: Tensor) -> None:
        """Send the counts of held steps off to the host."""
        self._held.copy_(held.sum(), non_blocking=True)

    def say(self, step: int) -> None:
        """Log, once, when a step before this one was held."""
        if not self._said and bool(self._held > 0):
            self._said = True
            logger.warning(
                "a gradient was not finite in step %d or shortly before: the step size was held on all ranks. Further "
                "such steps are counted (StepSize.held_steps) and not reported.",
                step - 1,
            )
