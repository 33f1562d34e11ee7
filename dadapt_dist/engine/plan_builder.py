"""Make the plan of a step whose tensors are new or have changed."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from .. import kernels
from ..kernels import TensorTask
from ..kernels.memory_checks import is_fixed
from ..sharding.shard import LocalShard
from .members import MovesTensors
from .option_sets import STAYS
from .state import param_state
from .state.buffers import is_unmoved, make_ready
from .step_plan import CachedTask, Key, Options, PlannedLot, StepPlan

Group = dict[str, Any]
Coefficients = Callable[[MovesTensors, Group, torch.device], dict[str, Any]]


@dataclass(slots=True)
class Draft:
    """The task of a part of a parameter on its way into a plan. options: those that the task depends on."""

    p: Tensor
    task: TensorTask
    place: LocalShard
    group: Group
    options: Options
    kernel: Any = None
    cached: CachedTask | None = None


def build_plan(
    optimizer: MovesTensors,
    entries: Sequence[tuple[Group, Sequence[Tensor]]],
    key: Key,
    scale: Tensor | None,
    coefficients: Coefficients,
) -> StepPlan:
    """The plan of a step, of the tasks that are what they were and of new ones, and keep it for the next step.

    Args:
        optimizer: The optimizer, in whose `plans` it is kept.
        entries: Groups with their tensors.
        key: The lot of each group, and the options of each on which its tasks depend.
        scale: What the gradients are divided by, or None.
        coefficients: The coefficients of a group on a device, for the trial of tensors of foreign types.

    Raises:
        UnfitError, GradientError, ValueError: For a tensor that cannot be used, before anything moves.
    """
    drafts: list[Draft] = []
    lots: dict[int, tuple[int, list[Draft]]] = {}
    for index, ((group, params), lot, options) in enumerate(zip(entries, *key, strict=True)):
        if lot != STAYS:
            before = len(drafts)
            for p in (p for p in params if p.grad is not None):
                drafts += _reused(optimizer, p, group, options, scale) or _made(optimizer, p, group, options, scale)
            lots.setdefault(lot, (index, []))[1].extend(drafts[before:])
    _assign(optimizer, drafts, coefficients)
    planned = [
        PlannedLot(
            first,
            [draft.task for draft in of_lot],
            kernels.launches(optimizer.method, [(draft.task, draft.kernel) for draft in of_lot]),
        )
        for first, of_lot in lots.values()
    ]
    new = [draft for draft in drafts if draft.cached is None]
    for draft in new:
        if _is_cacheable(optimizer, draft):
            state = optimizer.state[draft.p]
            draft.cached = CachedTask(draft.p, state, draft.task, draft.kernel, draft.place, draft.options)
    made = [draft.cached for draft in new if draft.cached is not None]
    cached = [draft.cached for draft in drafts if draft.cached is not None]
    optimizer.plans.keep(planned, key, cached if len(cached) == len(drafts) else [], made)
    return StepPlan(planned, [draft.p for draft in new])


def _reused(optimizer: MovesTensors, p: Tensor, group: Group, options: Options, scale: Tensor | None) -> list[Draft]:
    known = optimizer.plans.task(p, options, optimizer.state, scale)
    return [] if known is None else [Draft(p, known.task, known.place, group, options, known.kernel, known)]


def _made(optimizer: MovesTensors, p: Tensor, group: Group, options: Options, scale: Tensor | None) -> list[Draft]:
    """A new task for each part of a parameter that has a gradient."""
    parts = [(part, optimizer.plans.gradient(p, part[0])) for part in optimizer.step_size.shards.parts(p)]
    drafts: list[Draft] = []
    for (place, weight), gradient in parts:
        if gradient is not None:
            param_state.check_gradient(p, gradient, place.part(p), optimizer.method, group, optimizer.param_groups)
            if not drafts:
                param_state.check_state(p, _own_buffers(optimizer, p, group), group, place, optimizer.param_groups)
                make_ready(optimizer, p, group)
            task = TensorTask(
                x=place.part(p),
                g=gradient,
                buf={name: place.part(t) for name, t in _own_buffers(optimizer, p, group).items()},
                weight=weight,
                decay=optimizer.method.coupled_decay(group),
                maximize=group["maximize"],
                scale=scale,
                cut=param_state.cut_of(place, group),
                origin=place.global_offset or 0,
                param=p,
            )
            drafts.append(Draft(p, task, place, group, options))
    return drafts


def _assign(optimizer: MovesTensors, drafts: list[Draft], coefficients: Coefficients) -> None:
    """Check every new task and choose its kernel."""
    new = [draft for draft in drafts if draft.cached is None]
    for draft in new:
        at = partial(coefficients, optimizer, draft.group)
        draft.kernel = kernels.assign(optimizer.method, draft.task, at, optimizer.backend)
    if new:
        kernels.check_together([draft.task for draft in drafts])


def _is_cacheable(optimizer: MovesTensors, draft: Draft) -> bool:
    """Whether a fingerprint can tell that the task is unchanged, and nothing is to be done for its parameter in each step."""
    return (
        draft.place.flat_slice is None
        and len(optimizer.step_size.shards.parts(draft.p)) == 1
        and isinstance(optimizer.state[draft.p], dict)
        and not is_unmoved(optimizer, draft.p)
        and is_fixed(draft.task)
    )


def _own_buffers(optimizer: MovesTensors, p: Tensor, group: Group) -> dict[str, Tensor]:
    """What the method keeps of a parameter; others may keep more beside it."""
    state = optimizer.state.get(p, {})
    own = {name: state[name] for name in optimizer.buffers(group) if name in state}
    return own if optimizer.base is None else own | optimizer.base.buffers(optimizer, p)
