"""Which numbers of an optimizer belong in a log? Flat floats that any tracker takes."""

from typing import Any

from torch.optim import Optimizer

__all__ = ["record"]


def record(optimizer: Optimizer) -> dict[str, float]:
    """What an optimizer would do next: `lr`, and for a learning-rate-free one also `d` and `effective_lr` = d·lr.

    Returns floats under flat keys: "lr", "d", "effective_lr" with one group and one estimate; with more, "lr/0",
    "d/<estimate>", "effective_lr/0" and so on. For other optimizers (AdamW) `effective_lr` is `lr`, and there is no
    `d`. No collective; waits for a pending reduce of d, so on a slow network call it every few steps.
    """
    groups: list[dict[str, Any]] = optimizer.param_groups
    lrs = [float(group["lr"]) for group in groups]
    numbers = _spread("lr", lrs)
    d = getattr(optimizer, "d", None)
    if isinstance(d, dict):
        numbers |= {f"d/{name}": float(value) for name, value in d.items()}
    elif d is not None:
        numbers["d"] = float(d)
    return numbers | _spread("effective_lr", [float(v) for v in getattr(optimizer, "effective_lr", lrs)])


def _spread(name: str, values: list[float]) -> dict[str, float]:
    return {name: values[0]} if len(values) == 1 else {f"{name}/{i}": value for i, value in enumerate(values)}
