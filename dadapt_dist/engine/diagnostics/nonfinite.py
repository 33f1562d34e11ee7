"""Log, once each, gradients that are not finite and ranks that are out of step."""

import logging
from collections.abc import Sequence

import torch
from torch import Tensor

from ...comm.step_agreement import read
from ...options.checks import listed
from ..rank_agreement import COPIES

logger = logging.getLogger(__name__)


MEANS = dict.fromkeys(("average", "to_m", "to_v"), "betas")  # names of constants that users do not know


DIFFERENT_COPIES = (
    "parameters that are taken for copies, because their values were equal on several ranks, get different gradients there. "
    "If they are slices of larger tensors, d is wrong: pass copies=, a function that gives for a parameter the number of ranks "
    "with the same elements. If they are copies, average their gradients over the ranks before step(), as "
    "DistributedDataParallel does. If each rank trains a model of its own, pass process_group= with the ranks that train "
    "together (dist.new_group([rank]) for one)."
)


class HeldReport:
    """Logs the first held step, and ranks that are in different steps or have different options, once each.

    culprit: what may not have been finite.

    Never waits for a device: it reads host copies that an earlier step sent off.
    """

    def __init__(self) -> None:
        self._held = torch.zeros((), dtype=torch.float64, device="cpu")
        self._differ = torch.zeros(
            0, dtype=torch.bool, device="cpu"
        )  # were the ranks in different steps, and which marks differed?
        self._pins = False
        # Steps that were held because the ranks differed: of all estimates together, and of one.
        self._excused: Tensor | float = 0.0
        self._apart: Tensor | float = 0.0
        self._known: Tensor | float = 0.0  # held steps as of the last note, of all estimates together
        self._said = [False, False, False]
        self._told: set[str] = set()
        self.culprit = "a gradient"

    def live_on(self, device: torch.device) -> None:
        """Prepare for counts that come from this device; only a copy to pinned memory does not wait."""
        if device.type == "cuda":
            self._held, self._pins = self._held.pin_memory(), True

    def forget(self) -> None:
        """Say it again when the ranks come apart after they were brought together."""
        self._differ = torch.zeros(0, dtype=torch.bool, device="cpu")
        self._said[1:] = False, False

    def note(self, held: Tensor, differ: Tensor | None) -> None:
        """Send the counts of held steps, and in what the ranks differed, off to the host."""
        apart: Tensor | float = 0.0 if differ is None else differ.any()
        self._excused = self._excused + apart * held.numel()
        total = held.sum()
        self._apart = self._apart + apart * (total > self._known)  # marks that only tell of gradients hold nothing
        self._known = total
        self._held.copy_(held.sum() - self._excused, non_blocking=True)
        if differ is not None:
            if differ.shape != self._differ.shape:
                self._differ = torch.zeros(differ.shape, dtype=torch.bool, device="cpu", pin_memory=self._pins)
            self._differ.copy_(differ, non_blocking=True)

    @property
    def apart(self) -> float:
        """Steps, since the start of this process, that were held because the ranks differed; waits for the device."""
        return float(self._apart)

    @property
    def count(self) -> float:
        """Held steps, of all estimates together, as far as the host knows; not read before one was logged."""
        return float(self._held) if self._said[0] else 0.0

    def say(self, step: int, marks: Sequence[str]) -> None:
        """Log, once each, when a step before this one was held, or the ranks differed. marks: what they compare."""
        found = self._differ.tolist()
        doubtful, steps, marked = read(found, marks) if found else (False, False, set[str]())
        named = {MEANS.get(name, name) for name in marked}
        if COPIES in named and COPIES not in self._told:
            self._told.add(COPIES)
            logger.warning(DIFFERENT_COPIES)
        named.discard(COPIES)
        if not self._said[2] and named:
            self._said[2] = True
            logger.error(
                "since step %d or shortly before the ranks have different options: %s. The step size is held on all of them "
                "until they agree again. Change options on all ranks alike, between the same two steps (a schedule or a callback "
                "that runs on one rank alone does not).",
                step - 1,
                listed(named),
            )
        if not self._said[1] and steps:
            self._said[1] = True
            logger.error(
                "in step %d or shortly before the ranks were in different steps, so the step size is held on all of them. "
                "Some rank left out a step or took one more (an exception that was caught, step() under a condition, a "
                "checkpoint call that steps on one rank alone). Training goes on with the d that is there. To have it estimated "
                "again, load the last checkpoint on all ranks, here or in a new run.",
                step - 1,
            )
        elif not (self._said[0] or doubtful or named) and bool(self._held > 0):
            self._said[0] = True
            logger.warning(
                "%s was not finite, or so large that the step would overflow, in step %d or shortly before: the step size was "
                "held on all ranks. Further such steps are counted (StepSize.held_steps) and not reported.",
                self.culprit,
                step - 1,
            )
