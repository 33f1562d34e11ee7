"""Collect the values to log of an optimizer, unwrapped from a framework's, as flat floats that any tracker accepts."""

from typing import Any

from ..engine.optimizer import LearningRateFree
from ..sharding.unwrapping import innermost
from . import names


def base_optimizer(optimizer: Any) -> LearningRateFree:
    """Return the learning-rate-free optimizer inside a framework's wrappers (Accelerate, DeepSpeed, Lightning, ...).

    Args:
        optimizer: What a framework returned or holds: an optimizer, a DeepSpeed engine, or any wrapper that has its optimizer
            in an attribute `optimizer`, `optim`, `_base_optimizer` or `optimizers` (a list), however deep.

    Raises:
        TypeError: No innermost object is an optimizer of this package, or several are. The message names every layer.

    Example:
        >>> import torch, dadapt_dist
        >>> optimizer = dadapt_dist.Prodigy(torch.nn.Linear(2, 1).parameters())
        >>> dadapt_dist.base_optimizer(optimizer) is optimizer
        True
    """
    found = _ours(optimizer)
    if len(found) == 1:
        return found[0]
    layers = next(innermost(optimizer))
    if not found:
        raise TypeError(_said([type(layer).__name__ for layer in layers]))
    raise TypeError(
        f"{type(optimizer).__name__} holds {len(found)} optimizers of dadapt_dist; give its members one by one"
    )


def log_values(optimizer: Any) -> dict[str, float]:
    """Return the values to log of an optimizer, wrapped or not, as flat floats that any tracker accepts.

    "d" is the estimate and "effective_lr" d·lr; "adamw_lr" the learning rate at which AdamW would take the coming step, of
    methods that are like it (Prodigy). "held_steps" counts the steps that did not move d because something was not finite, and
    with several ranks "held_apart" those of them, in this process, in which the ranks differed. With grad_norms=True there are
    "grad_norm" and "grad_norm_l1": ‖g‖₂ and ‖g‖₁ of the last step. With several estimates the keys are "d/<estimate>", with
    several groups "effective_lr/0", "effective_lr/1" and so on. `monitor.record` gives the same and lr.

    Of a container of several optimizers, such as torchtitan's, a value that all have alike stands under its own name, as d
    does where they share a StepSize; others end in the number of the optimizer: "d/0", "d/1".

    It waits for the pending reduce but starts no collective, so a single rank may call it.

    Args:
        optimizer: As for `base_optimizer`, or a container of several.

    Raises:
        TypeError: No innermost object is an optimizer of this package.

    Example:
        >>> import torch, dadapt_dist
        >>> dadapt_dist.log_values(dadapt_dist.Prodigy(torch.nn.Linear(2, 1).parameters()))
        {'d': 1e-06, 'effective_lr': 1e-06, 'adamw_lr': 3.162277660168377e-06, 'held_steps': 0.0}
    """
    return _merged([_of_ours(one) for one in _ours(optimizer) or [base_optimizer(optimizer)]])


def record(optimizer: Any) -> dict[str, float]:
    """Return what `log_values` does, and before it "lr", or "lr/0", "lr/1" and so on; of any optimizer, wrapped or not.

    Of an optimizer from elsewhere (AdamW) there are "lr" and "effective_lr", which are the same, and no "d": so runs can be
    compared. It waits for the pending reduce but starts no collective; on a slow network call it every few steps.

    Args:
        optimizer: Any torch optimizer, or what `log_values` takes.

    Example:
        >>> import torch, dadapt_dist
        >>> from dadapt_dist import monitor
        >>> monitor.record(dadapt_dist.Prodigy(torch.nn.Linear(2, 1).parameters(), d0=1e-5))
        {'lr': 1.0, 'd': 1e-05, 'effective_lr': 1e-05, 'adamw_lr': 3.162277660168378e-05, 'held_steps': 0.0}
    """
    found = _ours(optimizer)
    if not found:
        lrs = _lrs(optimizer)
        return names.spread(names.LR, lrs) | names.spread(names.EFFECTIVE_LR, lrs)
    return _merged([names.spread(names.LR, _lrs(one)) | _of_ours(one) for one in found])


def _lrs(optimizer: Any) -> list[float]:
    return [float(group["lr"]) for group in optimizer.param_groups]


def _of_ours(optimizer: LearningRateFree) -> dict[str, float]:
    d, like_adamw = optimizer.d, optimizer.adamw_lr
    found = {f"{names.D}/{of}": value for of, value in d.items()} if isinstance(d, dict) else {names.D: d}
    numbers = {name: float(value) for name, value in found.items()}
    numbers |= names.spread(names.EFFECTIVE_LR, [float(value) for value in optimizer.effective_lr])
    if like_adamw is not None:
        numbers |= names.spread(names.ADAMW_LR, like_adamw)
    return numbers | optimizer._held_steps | optimizer.grad_norms


def logged(optimizer: Any) -> dict[str, float]:
    """What `log_values` gives, for trainers, whose groups (with weight decay and without) have one learning rate: logged as one.

    Raises TypeError when no optimizer of dadapt_dist stands there.
    """
    values = log_values(optimizer)
    for rate in (names.EFFECTIVE_LR, names.ADAMW_LR):
        rates = {name: value for name, value in values.items() if name.startswith(f"{rate}/")}
        if len({*map(str, rates.values())}) == 1:  # as text: a method without a rate has NaN, which equals no other NaN
            values = {name: value for name, value in values.items() if name not in rates}
            values[rate] = next(iter(rates.values()))
    return values


def _ours(optimizer: Any) -> list[LearningRateFree]:
    """The optimizers of this package that are innermost: Lightning's wrapper passes for an instance of what it wraps."""
    return [layers[-1] for layers in innermost(optimizer) if isinstance(layers[-1], LearningRateFree)]


def _merged(values: list[dict[str, float]]) -> dict[str, float]:
    """The values of several optimizers in one record."""
    merged: dict[str, float] = {}
    for name in dict.fromkeys(name for one in values for name in one):
        of_each = [one.get(name) for one in values]
        alike = len({*map(str, of_each)}) == 1  # as text: NaN equals no other NaN
        keys = [name] if alike else [f"{name}/{i}" for i in range(len(values))]
        merged |= {key: value for key, value in zip(keys, of_each, strict=False) if value is not None}
    return merged


def _said(layers: list[str]) -> str:
    cures = {
        "DeepSpeedCPUAdam": "with offload, Accelerate replaces an optimizer object by DeepSpeed's CPU Adam. Set "
        '"zero_force_ds_cpu_optimizer": false in the DeepSpeed config, or name the optimizer there',
        "DummyOptim": "it only stands for the optimizer of the DeepSpeed config. Give what accelerator.prepare returned",
        "list": "give its members one by one",
        "tuple": "give its members one by one",
    }
    found = " around ".join(layers)
    cure = cures.get(layers[-1], "give an optimizer of dadapt_dist, or what a framework made of it")
    return f"{found} is no learning-rate-free optimizer of dadapt_dist, nor a wrapper around one: {cure}"
