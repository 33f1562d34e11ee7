"""What users read of an optimizer, and set: d, learning rates, the loss of a step, and how it is shown."""

from collections.abc import Sequence
from typing import Any, Protocol

from torch import Tensor

from ..methods import Method
from ..methods.base import Options
from . import held_steps, loss_channel, param_groups
from .estimate_state import ScalarTable, estimates_of


class Estimating(held_steps.Holding, Protocol):
    """A StepSize to those who read and set its estimates."""

    @property
    def d(self) -> float | dict[str, float]:
        """The current d."""

    def set_d(self, value: float, estimate: str | None = None) -> None:
        """Set d by hand."""

    def _last_norms(self) -> dict[str, float]:
        """The norms of the gradients of the last step."""

    def _current(self) -> ScalarTable:
        """The scalars, after the reduce under way."""

    def _summary(self, groups: Sequence[Options]) -> str:
        """d, d·lr and the counters in one line."""


class Readings:
    """The part of a `LearningRateFree` that its users read."""

    step_size: Estimating
    _method: Method
    _loss: Tensor | float | None

    @property
    def _all_groups(self) -> list[dict[str, Any]]:
        """All groups."""
        raise NotImplementedError

    def _adopt_groups(self) -> None:
        """Make groups that somebody has put in the place of ours our own."""

    @property
    def d(self) -> float | dict[str, float]:
        """The current estimate of D: a float, or name -> float with several estimates. Waits for the reduce under way."""
        return self.step_size.d

    @property
    def effective_lr(self) -> list[float]:
        """The learning rate of the underlying method (Adam, SGD, ...) in the coming step, for each group: mostly d·lr.

        With an estimate for each tensor, the mean over the group's tensors. Waits for the reduce under way.
        """
        self._adopt_groups()
        return [self._rate(group) for group in self._all_groups]

    def _rate(self, group: dict[str, Any]) -> float:
        table = self.step_size._current()
        rates = [self._method.learning_rate(group, table.of(table.row(name))) for name in estimates_of(group)]
        return sum(map(float, rates)) / max(len(rates), 1)

    @property
    def adamw_lr(self) -> list[float] | None:
        """The learning rate at which AdamW would take the coming step, for each group; None for methods that are unlike it.

        This is the number to compare with a tuned AdamW's, where `effective_lr` is d·lr. Where the two differ, the method
        averages gradients with weights that grow with d, and has no exact bias correction: just after d has grown, its steps
        are many times those of AdamW at d·lr. Bounds on single tensors (`rms_cap`) are not in it. With an estimate for each
        tensor, the mean over the group's tensors. Waits for the reduce under way.
        """
        self._adopt_groups()
        table = self.step_size._current()
        rates = [
            [self._method.adamw_lr(group, table.of(table.row(name))) for name in estimates_of(group)]
            for group in self._all_groups
        ]
        if any(rate is None for of_group in rates for rate in of_group):
            return None
        return [sum(float(rate or 0.0) for rate in of_group) / max(len(of_group), 1) for of_group in rates]

    @property
    def grad_norms(self) -> dict[str, float]:
        """{"grad_norm_l1": ‖g‖₁, "grad_norm": ‖g‖₂} of the last step, over all tensors that moved on all ranks of the group.

        Of the gradients as step() found them: averaged, unscaled, clipped where their user has done so. NaN after a step with
        a gradient that was not finite; {} before the first step, and without grad_norms=True. Waits for the reduce under way.
        """
        return self.step_size._last_norms()

    @property
    def _held_steps(self) -> dict[str, float]:
        """Counts of held steps by reason: "held_steps" of all, "held_apart" of those in which the ranks differed."""
        return held_steps.counts(self.step_size)

    def set_d(self, value: float, estimate: str | None = None) -> None:
        """Set d by hand; it stays there until a larger one is found. Do so on all ranks, between the same two steps.

        `param_groups[i]["d"] = value` does the same in the next step. Waits for the reduce under way; no collective.

        Args:
            value: the new d, finite and > 0.
            estimate: whose d. None where there is one estimate.

        Raises:
            ValueError: for a d that cannot be, or an estimate that does not exist or is not named; nothing has changed.
            RuntimeError: in the middle of a step.

        Example:
            >>> import torch, dadapt_dist
            >>> optimizer = dadapt_dist.Prodigy(torch.nn.Linear(2, 1).parameters())
            >>> optimizer.set_d(1e-3)
            >>> optimizer.d
            0.001
        """
        self.step_size.set_d(value, estimate)

    @property
    def loss(self) -> Tensor | float | None:
        """The loss of the coming step on this rank, set before a framework calls step(), which forgets it; None: none."""
        return self._loss

    @loss.setter
    def loss(self, value: Any) -> None:
        self._loss = loss_channel.read(value, type(self).__name__) if self._method.wants_loss else None

    def __repr__(self) -> str:
        """d, d·lr and the counters as they are known without waiting for another rank, then the groups as torch lists them."""
        lines = [f"{type(self).__name__} ({self.step_size._summary(self._all_groups)}"]
        for index, group in enumerate(self._all_groups):
            lines.append(f"Parameter Group {index}")
            lines += [f"    {key}: {param_groups.plain(group[key])}" for key in sorted(group) if key != "params"]
        return "\n".join([*lines, ")"])
