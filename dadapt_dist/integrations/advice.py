"""Find a trainer's settings that work against an optimizer that finds its own step size; each is a sentence with its cure."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from torch import Tensor

from ..engine.diagnostics import advice_texts
from ..engine.diagnostics.advice import is_guarded
from ..engine.optimizer import LearningRateFree
from ..methods.registry import class_name
from ..sharding import fsdp1

__all__ = ["mistakes"]

SHORT, NEAR = 200, 1e-4  # in so many steps a d that climbs from less than this may not arrive


def mistakes(
    optimizer: LearningRateFree,
    scheduler: Any,
    *,
    clip: float,
    params: Iterable[Tensor],
    steps: float = math.inf,
    epochs: float = math.nan,
) -> Iterator[str]:
    """What is wrong before the first step. Nothing is changed.

    scheduler: of torch or DeepSpeed, wrapped or not; None without one. clip: the norm that gradients are clipped to, 0
    without clipping. params: those of the model, as its framework has left them; no collective is called for their size.
    steps, epochs: of the whole run; infinite or NaN where they are not known.
    """
    peaks = _peaks(optimizer, scheduler)
    if not optimizer._method.chosen_lr:
        yield from _wrong_lr(optimizer, peaks)
    yield from _unguarded_warmup(optimizer, peaks)
    yield from _small_clip(optimizer, clip, params)
    yield from _other_length(optimizer, steps)
    if epochs > advice_texts.MANY_EPOCHS:
        yield advice_texts.little_data(epochs)


def _wrong_lr(optimizer: LearningRateFree, peaks: list[float]) -> Iterator[str]:
    trains = [peak for peak in peaks if peak != 0.0] or peaks  # a group with lr 0 is one that shall not train
    wrong = [*filter(advice_texts.LR.is_made, trains)]
    if wrong:
        for what in ("lr", "groups"):
            optimizer.step_size._diagnostics.advice.heard(what)
        yield advice_texts.lr(wrong[0])


def _unguarded_warmup(optimizer: LearningRateFree, peaks: list[float]) -> Iterator[str]:
    for group, peak in zip(optimizer._all_groups, peaks, strict=True):
        first = float(group["lr"])
        if advice_texts.WARM_UP.is_made(first, peak, is_guarded(group)):
            optimizer.step_size._diagnostics.advice.heard("warm-up")
            yield advice_texts.warm_up(first, peak)
            return


def _other_length(optimizer: LearningRateFree, steps: float) -> Iterator[str]:
    told = next((group["total_steps"] for group in optimizer._all_groups if group.get("total_steps")), None)
    if not math.isfinite(steps):
        return
    if told is not None and told != steps:
        yield advice_texts.other_length(told, int(steps))
    climbs = any(group.get("recipe") and group["d0"] < NEAR for group in optimizer._all_groups)
    if told is None and climbs and steps < SHORT:
        yield advice_texts.no_trials(int(steps))


def _small_clip(optimizer: LearningRateFree, clip: float, params: Iterable[Tensor]) -> Iterator[str]:
    start = optimizer._method.first_square
    if start is None or clip <= 0:
        return
    n_elements = count_elements([p for p in params if p.requires_grad])
    if clip**2 >= start * n_elements:
        return
    name = class_name(type(optimizer._method))
    yield (
        f"gradients are clipped to a norm of {clip:g} over {n_elements} elements, {clip / math.sqrt(n_elements):.1e} an element: "
        f"{name} starts its squares at {start:g}, beside which such gradients vanish, and d may never leave d0. "
        f"Do not clip (max_grad_norm=0), clip to {math.sqrt(start * n_elements):.2g} or more, or take another method"
    )


def _peaks(optimizer: LearningRateFree, scheduler: Any) -> list[float]:
    """The largest lr of each group, as far as the schedule says it."""
    groups = optimizer._all_groups
    while (inner := getattr(scheduler, "scheduler", None)) is not None:
        scheduler = inner
    for name in ("max_lrs", "org_lrs"):  # DeepSpeed's schedules, whose groups begin with the smallest lr
        said = getattr(scheduler, name, None)
        if isinstance(said, list) and len(said) == len(groups):
            return [float(lr) for lr in said]
    lrs = [float(group.get("max_lr", group.get("initial_lr", group["lr"]))) for group in groups]
    factors = getattr(scheduler, "lr_lambdas", None)  # torch's LambdaLR
    if isinstance(factors, list) and len(factors) == len(groups):
        return [lr * _constant(factor) for lr, factor in zip(lrs, factors, strict=True)]
    return lrs


def _constant(factor: Callable[[int], float]) -> float:
    """The factor of a schedule that never changes; 1, its usual peak, of one that does or cannot be told."""
    try:
        found = {float(factor(step)) for step in (0, 1, 10, 100, 1000)}
    except Exception:  # noqa: BLE001 - the user's function, for steps that may lie beyond its end
        return 1.0
    return found.pop() if len(found) == 1 else 1.0


def count_elements(params: Sequence[Tensor]) -> int:
    """How many elements these parameters have on all ranks together, whichever way they are sharded."""
    places = fsdp1.FSDP1Adapter().place(params)  # FSDP2's and whole parameters say it themselves, ZeRO-3's by ds_numel
    sizes = [
        getattr(p, "ds_numel", p.numel()) if place is None else place.global_numel
        for p, place in zip(params, places, strict=True)
    ]
    return int(sum(sizes))
