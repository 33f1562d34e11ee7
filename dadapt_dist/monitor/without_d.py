"""Say of a log without a d why it has none, and what it has instead: not every method estimates one."""

from . import names
from .columns import Columns

__all__ = ["CURE", "instead_of_d", "rate_label"]

CURE = "log **dadapt_dist.monitor.record(optimizer) with each step"
RATE = "learning rate"


def instead_of_d(columns: Columns) -> str | None:
    """What stands for d in a log that has no finite one, in words; None where the log has a d, or nothing of an optimizer.

    Example:
        >>> columns = Columns()
        >>> columns.add({"step": 1, "lr": 1e-3, "effective_lr": 1e-3})
        >>> instead_of_d(columns)
        'the optimizer has no d, as AdamW has none: effective_lr is its learning rate'
    """
    if columns.parts(names.D):
        return None
    has_rate = bool(columns.parts(names.EFFECTIVE_LR))
    if any(names.base_name(key) == names.D for key in columns.series):  # written at every step, as NaN
        if has_rate:
            return "the method has no d: effective_lr is the learning rate that it finds or was given"
        return "the method has no d and no common learning rate, since each weight has its own: watch the loss"
    return "the optimizer has no d, as AdamW has none: effective_lr is its learning rate" if has_rate else None


def rate_label(columns: Columns) -> str:
    """What effective_lr is called: d·lr of a run with d, otherwise a learning rate."""
    return RATE if instead_of_d(columns) else names.QUANTITIES[names.EFFECTIVE_LR].label
