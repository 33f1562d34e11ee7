"""Log d every `log_every` steps, as the released packages do."""

import logging
from typing import Any, Protocol

from .members import HasScalars

logger = logging.getLogger("dadapt_dist.engine.optimizer")  # the name under which it has always been logged


class Logged(Protocol):
    """An optimizer whose d is logged."""

    @property
    def step_size(self) -> HasScalars:
        """The StepSize that it shares."""

    @property
    def _all_groups(self) -> list[dict[str, Any]]:
        """All groups."""

    @property
    def d(self) -> float | dict[str, float]:
        """The present d."""

    @property
    def effective_lr(self) -> list[float]:
        """d·lr of each group."""

    @property
    def adamw_lr(self) -> list[float] | None:
        """The learning rate at which AdamW would take the step."""


def log(optimizer: Logged) -> None:
    """Log d and d·lr when it is time to, which waits for the reduce under way."""
    every = next((group.get("log_every", 0) for group in optimizer._all_groups), 0)
    if every and optimizer.step_size.steps % every == 0:
        rates = "" if optimizer.adamw_lr is None else f", as AdamW at {optimizer.adamw_lr}"
        logger.info("step %d: d %s, d·lr %s%s", optimizer.step_size.steps, optimizer.d, optimizer.effective_lr, rates)
