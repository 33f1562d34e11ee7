"""A loss for the steps of tests that give none, so that a method of the package that uses one can be tested like all others.

Such a method moves nothing without it, and tests over all methods know of none. Where neither a step nor its optimizer has a
loss, it is MADE_UP here; the oracles take the same. It is the same in all steps, for runs are compared that have left out some.
Importing this file is enough. Methods that tests define themselves are left as they are: their tests are about the loss.
"""

from typing import Any

from torch._compile import _disable_dynamo

from dadapt_dist.engine.optimizer import LearningRateFree
from dadapt_dist.methods import METHODS

OF_PACKAGE = {
    name for name, method in METHODS.items() if method.wants_loss and method.__module__.startswith("dadapt_dist.")
}
_take_step = LearningRateFree._take_step
MADE_UP = 0.75


@_disable_dynamo
def _with_loss(self: LearningRateFree, loss: Any = None, result: Any = None) -> None:
    if self._method.name in OF_PACKAGE and loss is None and result is None and self._loss is None:
        loss = MADE_UP
    _take_step(self, loss, result)


LearningRateFree._take_step = _with_loss  # type: ignore[method-assign]
