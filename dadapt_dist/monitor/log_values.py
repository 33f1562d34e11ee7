"""Which optimizer of ours stands behind a framework's wrappers, and what of it belongs in a log?"""

from typing import Any

from ..engine.optimizer import LearningRateFree
from .record import record

__all__ = ["base_optimizer", "log_values"]


def base_optimizer(optimizer: Any) -> LearningRateFree:
    """The learning-rate-free optimizer behind wrappers: those of Accelerate, DeepSpeed, Lightning and the like.

    optimizer: what a framework returned or holds. Every wrapper known names what it wraps `optimizer`; a DeepSpeed
    engine does, too. Raises TypeError when another optimizer stands there, or none.
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
    """What a log needs of a learning-rate-free optimizer, wrapped or not: {"d": ..., "effective_lr": d·lr}.

    With several estimates "d/<estimate>", with several groups "effective_lr/0", "effective_lr/1" and so on. No collective;
    waits for the reduce under way, so one rank alone may call it. Raises TypeError as `base_optimizer` does.
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
