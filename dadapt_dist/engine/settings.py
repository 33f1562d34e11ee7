"""Check the settings of a StepSize against the optimizers that share it, when one is assigned or an optimizer joins."""

import logging
from typing import Any, Protocol

from ..methods import Method
from .base_optimizer import check_nonfinite
from .clipping import check_whole
from .members import Roster
from .step_pieces import check_pieces

logger = logging.getLogger(__name__)
SHARED = ("nonfinite", "freeze_after", "before", "clip_norm")
"""Those that all ranks need alike."""


class HasSettings(Protocol):
    """A StepSize to those who check its settings."""

    freeze_after: int | None
    _roster: Roster
    _released: bool

    @property
    def _calls(self) -> int:
        """The number of steps as it is known without waiting."""


def check(step_size: HasSettings, method: Method, name: str, value: Any) -> None:
    """Raise ValueError for a setting that the optimizers of a StepSize cannot follow; warn of one without an effect."""
    if name == "nonfinite":
        check_nonfinite(method, value)
        check_pieces(step_size._roster, value)
    if name == "clip_norm":
        check_whole(step_size._roster, value)
    if name != "freeze_after" or warn_if_idle(method, value):
        return
    if step_size._released and (value is None or value > step_size._calls):
        raise ValueError(
            f"freeze_after={value!r}: d was frozen after {step_size.freeze_after} steps and its buffers were released, so it "
            f"cannot go on in step {step_size._calls}. Leave freeze_after as it is, or first load a checkpoint of before."
        )


def warn_if_idle(method: Method, freeze_after: int | None) -> bool:
    """Warn of a freeze_after without an effect, which frees no memory; return whether the method has no estimate to freeze."""
    idle = method.before is None and method.after is None
    if idle and freeze_after is not None:
        logger.warning(
            "freeze_after=%d does nothing: %s estimates nothing that could be frozen, and keeps its buffers. Leave it out.",
            freeze_after,
            method.name,
        )
    return idle
