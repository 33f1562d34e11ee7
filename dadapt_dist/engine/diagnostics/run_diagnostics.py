"""All that is said of a run, entered only in the steps in which there may be something to say."""

import torch
from torch import Tensor

from ..members import Watched
from . import separate_estimates
from .advice import Advice
from .no_gradients import IdleReport
from .nonfinite import HeldReport


class RunDiagnostics:
    """The reports on the run of one StepSize. None of them waits for a device or calls a collective.

    due: the number of steps from which on `look` is to be called before each step. wants_sums: whether `note` is to be called
    after each reduce; else only after one that held an estimate, or in which the ranks differed. Where sums live on a device
    it always is, since the host must not wait for them to know.
    """

    def __init__(self) -> None:
        self.held, self.idle, self.advice = HeldReport(), IdleReport(), Advice()
        self.due, self.wants_sums = 0, True
        self._is_remote = False  # do the sums live on a device that is not the host?

    def begin(self, step_size: Watched, home: torch.device) -> None:
        """Prepare for sums that come from this device, of parameters that were just placed."""
        self._is_remote = home.type != "cpu"
        self.held.live_on(home)
        self.idle.live_on(home)
        self.held.forget()
        self.held.culprit = "a gradient, or the loss," if step_size._scalars.method.wants_loss else "a gradient"
        self.idle.watching &= (
            not step_size._scalars.is_sumless
        )  # of such a method nobody knows the other ranks' gradients
        self.due, self.wants_sums = 0, True
        separate_estimates.join(step_size)

    def look(self, step_size: Watched) -> None:
        """Say before a step what there is to say of those before it."""
        self.idle.say()
        self.held.say(step_size._calls, step_size._agreement.names())
        self.advice.look(step_size, self.held.count)
        waits = self._is_remote or self.idle.watching or self.advice.is_counting(self.held.count)
        self.due = 0 if waits else self.advice.due

    def note(self, sums: Tensor, held: Tensor, differ: Tensor | None, moves: bool, overflow: Tensor | None) -> None:
        """Take note of the global sums of a step.

        Args:
            sums: float64 [n_estimates, width].
            held: How many steps were held, of each estimate: float64 [n_estimates].
            differ: In what the ranks differed, bool; None with one rank.
            moves: Has the step an lr above 0?
            overflow: 0-dim bool, true for a step that was left out; None without a GradScaler.
        """
        self.idle.note(sums, moves, overflow)
        self.held.note(held, differ)
        differed = differ is not None and not self._is_remote and bool(differ.any())
        self.due, self.wants_sums = 0, self._is_remote or self.idle.watching or differed
