"""Collect the numbers of an optimizer for a log, as flat floats that any tracker accepts."""

from typing import Any

from torch.optim import Optimizer

__all__ = ["record"]


def record(optimizer: Optimizer) -> dict[str, float]:
    """Return `lr`, and for a learning-rate-free optimizer also `d` and `effective_lr`, as floats under flat keys.

    With one group and one estimate the keys are "lr", "d" and "effective_lr"; with more, "lr/0", "d/<estimate>",
    "effective_lr/0" and so on. For other optimizers (AdamW) `effective_lr` is `lr`, and there is no `d`. It waits for the
    pending reduce but starts no collective; on a slow network call it every few steps.

    Args:
        optimizer: Any torch optimizer.

    Example:
        >>> import torch, dadapt_dist
        >>> record(dadapt_dist.Prodigy(torch.nn.Linear(2, 1).parameters(), d0=1e-5))
        {'lr': 1.0, 'd': 1e-05, 'effective_lr': 1e-05}
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
