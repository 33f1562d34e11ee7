"""Unwrap a framework's optimizer and collect the values to log."""

from typing import Any

from ..engine.optimizer import LearningRateFree
from .record import record

__all__ = ["base_optimizer", "log_values"]


def base_optimizer(optimizer: Any) -> LearningRateFree:
    """Return the learning-rate-free optimizer inside a framework's wrappers (Accelerate, DeepSpeed, Lightning, ...).

    Args:
        optimizer: What a framework returned or holds: an optimizer, a wrapper with an attribute `optimizer`, or a DeepSpeed
            engine.

    Raises:
        TypeError: The innermost object is not an optimizer of this package. The message names every layer.

    Example:
        >>> import torch, dadapt_dist
        >>> optimizer = dadapt_dist.Prodigy(torch.nn.Linear(2, 1).parameters())
        >>> dadapt_dist.base_optimizer(optimizer) is optimizer
        True
    """
    chain = [optimizer]
    while True:  # to the innermost: Lightning's wrapper passes for an instance of what it wraps
        inner = getattr(chain[-1], "optimizer", None)
        if inner is None or any(inner is outer for outer in chain):
            break
        chain.append(inner)
    if not isinstance(chain[-1], LearningRateFree):
        raise TypeError(_said([type(link).__name__ for link in chain]))
    return chain[-1]


def log_values(optimizer: Any) -> dict[str, float]:
    """Return the values to log of an optimizer, wrapped or not: {"d": ..., "effective_lr": ...}.

    With several estimates the keys are "d/<estimate>", with several groups "effective_lr/0", "effective_lr/1" and so on. It
    waits for the pending reduce but starts no collective, so a single rank may call it.

    Args:
        optimizer: As for `base_optimizer`.

    Raises:
        TypeError: As for `base_optimizer`.

    Example:
        >>> import torch, dadapt_dist
        >>> dadapt_dist.log_values(dadapt_dist.Prodigy(torch.nn.Linear(2, 1).parameters()))
        {'d': 1e-06, 'effective_lr': 1e-06}
    """
    numbers = record(base_optimizer(optimizer))
    return {name: value for name, value in numbers.items() if name.split("/")[0] != "lr"}


def _said(names: list[str]) -> str:
    cures = {
        "DeepSpeedCPUAdam": "with offload, Accelerate replaces an optimizer object by DeepSpeed's CPU Adam. Set "
        '"zero_force_ds_cpu_optimizer": false in the DeepSpeed config, or name the optimizer there',
        "DummyOptim": "it only stands for the optimizer of the DeepSpeed config. Give what accelerator.prepare returned",
        "list": "give its members one by one",
        "tuple": "give its members one by one",
    }
    found = " around ".join(names)
    cure = cures.get(names[-1], "give an optimizer of dadapt_dist, or what a framework made of it")
    return f"{found} is no learning-rate-free optimizer of dadapt_dist, nor a wrapper around one: {cure}"
