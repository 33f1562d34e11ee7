"""Collect the values to log of an optimizer, unwrapped from a framework's, as flat floats that any tracker accepts."""

from typing import Any

from torch.optim import Optimizer

from ..engine.optimizer import LearningRateFree


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
    """Return the values to log of an optimizer, wrapped or not: {"d": ..., "effective_lr": ..., "adamw_lr": ...}.

    With several estimates the keys are "d/<estimate>", with several groups "effective_lr/0", "effective_lr/1" and so on.
    "adamw_lr" is the learning rate at which AdamW would take the coming step, for methods that are like it (Prodigy). It
    waits for the pending reduce but starts no collective, so a single rank may call it. An optimizer with grad_norms=True has
    "grad_norm" and "grad_norm_l1" beside them: ‖g‖₂ and ‖g‖₁ of the last step.

    Args:
        optimizer: As for `base_optimizer`.

    Raises:
        TypeError: As for `base_optimizer`.

    Example:
        >>> import torch, dadapt_dist
        >>> dadapt_dist.log_values(dadapt_dist.Prodigy(torch.nn.Linear(2, 1).parameters()))
        {'d': 1e-06, 'effective_lr': 1e-06, 'adamw_lr': 3.162277660168377e-06}
    """
    numbers = record(base_optimizer(optimizer))
    return {name: value for name, value in numbers.items() if name.split("/")[0] != "lr"}


def record(optimizer: Optimizer) -> dict[str, float]:
    """Return `lr`, and for a learning-rate-free optimizer also `d`, `effective_lr` and `adamw_lr`, as floats under flat keys.

    With one group and one estimate the keys are "lr", "d", "effective_lr" and "adamw_lr"; with more, "lr/0", "d/<estimate>",
    "effective_lr/0" and so on. Methods that are unlike AdamW have no "adamw_lr". With grad_norms=True there are "grad_norm" and
    "grad_norm_l1" of the step before. For other optimizers (AdamW) `effective_lr`
    is `lr`, and there is no `d`. It waits for the pending reduce but starts no collective; on a slow network call it every
    few steps.

    Args:
        optimizer: Any torch optimizer.

    Example:
        >>> import torch, dadapt_dist
        >>> record(dadapt_dist.Prodigy(torch.nn.Linear(2, 1).parameters(), d0=1e-5))
        {'lr': 1.0, 'd': 1e-05, 'effective_lr': 1e-05, 'adamw_lr': 3.162277660168378e-05}
    """
    groups: list[dict[str, Any]] = optimizer.param_groups
    lrs = [float(group["lr"]) for group in groups]
    numbers = _spread("lr", lrs)
    d = getattr(optimizer, "d", None)
    if isinstance(d, dict):
        numbers |= {f"d/{name}": float(value) for name, value in d.items()}
    elif d is not None:
        numbers["d"] = float(d)
    numbers |= _spread("effective_lr", [float(v) for v in getattr(optimizer, "effective_lr", lrs)])
    numbers |= getattr(optimizer, "grad_norms", {})
    like_adamw = getattr(optimizer, "adamw_lr", None)
    return numbers if like_adamw is None else numbers | _spread("adamw_lr", like_adamw)


def logged(optimizer: Any) -> dict[str, float]:
    """d and effective_lr = d·lr of the coming step. Raises TypeError when no optimizer of dadapt_dist stands there.

    Trainers make several groups (with weight decay and without) that have one learning rate: they are logged as one.
    """
    values = log_values(optimizer)
    for rate in ("effective_lr", "adamw_lr"):
        rates = {name: value for name, value in values.items() if name.startswith(f"{rate}/")}
        if len({*map(str, rates.values())}) == 1:  # as text: a method without a rate has NaN, which equals no other NaN
            values = {name: value for name, value in values.items() if name not in rates}
            values[rate] = next(iter(rates.values()))
    return values


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


def _spread(name: str, values: list[float]) -> dict[str, float]:
    return {name: values[0]} if len(values) == 1 else {f"{name}/{i}": value for i, value in enumerate(values)}
