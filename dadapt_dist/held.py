"""Who is told, and how often, that a step was held because a gradient was not finite?"""

import logging

import torch
from torch import Tensor

from .idle import IdleReport

logger = logging.getLogger(__name__)


class HeldReport:
    """Logs the first held step, and ranks that are in different steps, once each. idle: whether anything trains.

    Never waits for a device: it reads host copies that an earlier step sent off.
    """

    def __init__(self) -> None:
        self._held = torch.zeros((), dtype=torch.float64)
        self._unpaired = torch.zeros((), dtype=torch.bool)
        self._said = [False, False]
        self.idle = IdleReport()

    def live_on(self, device: torch.device) -> None:
        """Prepare for counts that come from this device; only a copy to pinned memory does not wait."""
        self.idle.live_on(device)
        if device.type == "cuda":
            self._held, self._unpaired = self._held.pin_memory(), self._unpaired.pin_memory()

    def note(self, held: Tensor, unpaired: Tensor | None, sums: Tensor) -> None:
        """Send the counts of held steps, whether the ranks were in different steps, and had gradients, off to the host."""
        self.idle.note(sums)
        self._held.copy_(held.sum(), non_blocking=True)
        if unpaired is not None:
            self._unpaired.copy_(unpaired, non_blocking=True)

    def say(self, step: int) -> None:
        """Log, once, when a step before this one was held, or when none had a gradient."""
        self.idle.say()
        if not self._said[1] and bool(self._unpaired):
            self._said[1] = True
            logger.error(
                "in step %d or shortly before the ranks were in different steps, so the step size is held on all of them. "
                "Some rank left out a step or took one more (an exception that was caught, step() under a condition, a "
                "checkpoint call that steps on one rank alone). Start again from the last checkpoint, on all ranks.",
                step - 1,
            )
        elif not self._said[0] and bool(self._held > 0):
            self._said[0] = True
            logger.warning(
                "a gradient was not finite, or so large that the step would overflow, in step %d or shortly before: the step "
                "size was held on all ranks. Further such steps are counted (StepSize.held_steps) and not reported.",
                step - 1,
            )
