"""Collect the values to log of an optimizer, unwrapped from a framework's, as flat floats that any tracker accepts."""

from typing import Any

from ..engine.optimizer import LearningRateFree
from . import names


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
    chain = _innermost(optimizer)
    if not isinstance(chain[-1], LearningRateFree):
        raise TypeError(_said([type(link).__name__ for link in chain]))
    return chain[-1]


def log_values(optimizer: Any) -> dict[str, float]:
    """Return the values to log of an optimizer, wrapped or not, as flat floats that any tracker accepts.

    "d" is the estimate and "effective_lr" d·lr; "adamw_lr" the learning rate at which AdamW would take the coming step, of
    methods that are like it (Prodigy). "held_steps" counts the steps that did not move d because something was not finite, and
    with several ranks "held_apart" those of them, in this process, in which the ranks differed. With grad_norms=True there are
    "grad_norm" and "grad_norm_l1": ‖g‖₂ and ‖g‖₁ of the last step. With several estimates the keys are "d/<estimate>", with
    several groups "effective_lr/0", "effective_lr/1" and so on. `monitor.record` gives the same and lr.

    It waits for the pending reduce but starts no collective, so a single rank may call it.

    Args:
        optimizer: As for `base_optimizer`.

    Raises:
        TypeError: As for `base_optimizer`.

    Example:
        >>> import torch, dadapt_dist
        >>> dadapt_dist.log_values(dadapt_dist.Prodigy(torch.nn.Linear(2, 1).parameters()))
        {'d': 1e-06, 'effective_lr': 1e-06, 'adamw_lr': 3.162277660168377e-06, 'held_steps': 0.0}
    """
    return _of_ours(base_optimizer(optimizer))


def record(optimizer: Any) -> dict[str, float]:
    """Return what `log_values` does, and before it "lr", or "lr/0", "lr/1" and so on; of any optimizer, wrapped or not.

    Of an optimizer from elsewhere (AdamW) there are "lr" and "effective_lr", which are the same, and no "d": so runs can be
    compared. It waits for the pending reduce but starts no collective; on a slow network call it every few steps.

    Args:
        optimizer: Any torch optimizer.

    Example:
        >>> import torch, dadapt_dist
        >>> from dadapt_dist import monitor
        >>> monitor.record(dadapt_dist.Prodigy(torch.nn.Linear(2, 1).parameters(), d0=1e-5))
        {'lr': 1.0, 'd': 1e-05, 'effective_lr': 1e-05, 'adamw_lr': 3.162277660168378e-05, 'held_steps': 0.0}
    """
    base = _innermost(optimizer)[-1]
    ours = isinstance(base, LearningRateFree)
    lrs = [float(group["lr"]) for group in (base if ours else optimizer).param_groups]
    return names.spread(names.LR, lrs) | (_of_ours(base) if ours else names.spread(names.EFFECTIVE_LR, lrs))


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


def _innermost(optimizer: Any) -> list[Any]:
    """The optimizer with what it wraps, to the innermost: Lightning's wrapper passes for an instance of what it wraps."""
    chain = [optimizer]
    while True:
        inner = getattr(chain[-1], "optimizer", None)
        if inner is None or any(inner is outer for outer in chain):
            return chain
        chain.append(inner)


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
