"""Log d every `log_every` steps, as the released packages do."""

import logging
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .optimizer import LearningRateFree

logger = logging.getLogger("dadapt_dist.engine.optimizer")  # the name under which it has always been logged


def log(optimizer: "LearningRateFree") -> None:
    """Log d and d·lr when it is time to, which waits for the reduce under way."""
    every = next((group.get("log_every", 0) for group in optimizer.groups), 0)
    if every and optimizer.step_size.steps % every == 0:
        logger.info("step %d: d %s, d·lr %s", optimizer.step_size.steps, optimizer.d, optimizer.effective_lr)
