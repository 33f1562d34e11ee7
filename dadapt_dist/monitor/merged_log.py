"""Values for a trainer's log: `log_values`, with a single effective_lr where all groups share it."""

from typing import Any

from .log_values import log_values

__all__ = ["logged"]


def logged(optimizer: Any) -> dict[str, float]:
    """d and effective_lr = d·lr of the coming step. Raises TypeError when no optimizer of dadapt_dist stands there.

    Trainers make several groups (with weight decay and without) that have one learning rate: they are logged as one.
    """
    values = log_values(optimizer)
    rates = {name: value for name, value in values.items() if name.startswith("effective_lr/")}
    if len(set(rates.values())) != 1:
        return values
    kept = {name: value for name, value in values.items() if name not in rates}
    return kept | {"effective_lr": next(iter(rates.values()))}
