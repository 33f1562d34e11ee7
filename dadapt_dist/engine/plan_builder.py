"""Make the plan of a step whose tensors are new or have changed."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from .. import kernels
from ..kernels import TensorTask
from ..kernels.memory_checks import is_fixed
from .members import MovesTensors
from .option_sets import STAYS
from .state import param_state
from .state.buffers import is_unmoved, make_ready
from .step_plan import Key, Options, PlannedLot, PlannedTask, StepPlan

Group = dict[str, Any]
Coefficients = Callable[[MovesTensors, Group, torch.device], dict[str, Any]]


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
    planned: list[PlannedTask] = []
    new: list[PlannedTask] = []
    lots: dict[int, tuple[int, list[PlannedTask]]] = {}
    for index, ((group, params), lot, options) in enumerate(zip(entries, *key, strict=True)):
        if lot != STAYS:
            before = len(planned)
            for p in (p for p in params if p.grad is not None):
                known = optimizer._plans.task(p, options, optimizer.state, scale)
                made = [] if known is not None else _made(optimizer, p, group, options, scale, coefficients)
                planned += made if known is None else [known]
                new += made
            lots.setdefault(lot, (index, []))[1].extend(planned[before:])
    if new:
        kernels.check_together([one.task for one in planned])
    for one in new:
        if _is_cacheable(optimizer, one):
            one.keep(optimizer.state[one.p])
    of_lots = [
        PlannedLot(
            first,
            [one.task for one in of_lot],
            kernels.launches(optimizer._method, [(one.task, one.kernel) for one in of_lot]),
        )
        for first, of_lot in lots.values()
    ]
    plan = StepPlan(of_lots, key, planned, [one.p for one in new])
    optimizer._plans.keep(plan, new)
    return plan


def _made(
    optimizer: MovesTensors, p: Tensor, group: Group, options: Options, scale: Tensor | None, coefficients: Coefficients
) -> list[PlannedTask]:
    """A new task, checked, with its kernel, for each part of a parameter that has a gradient."""
    shards = optimizer.step_size._shards
    parts = [(part, optimizer._plans.gradient(p, part[0])) for part in shards.parts(p)]
    made: list[PlannedTask] = []
    for ((place, weight), gradient), runs in zip(parts, shards.runs(p), strict=True):
        if gradient is not None:
            param_state.check_gradient(p, gradient, place.part(p), optimizer._method, group, optimizer.param_groups)
            if not made:
                param_state.check_state(p, _own_buffers(optimizer, p, group), group, place, optimizer.param_groups)
                make_ready(optimizer, p, group)
            task = TensorTask(
                x=place.part(p),
                g=gradient,
                buf={name: place.part(t) for name, t in _own_buffers(optimizer, p, group).items()},
                weight=weight,
                decay=optimizer._method.coupled_decay(group),
                maximize=group["maximize"],
                scale=scale,
                cut=param_state.cut_of(place, group),
                origin=place.global_offset or 0,
                param=p,
                runs=runs,
            )
            kernel = kernels.assign(
                optimizer._method, task, partial(coefficients, optimizer, group), optimizer._backend
            )
            made.append(PlannedTask(p, task, kernel, place, options))
    return made


def _is_cacheable(optimizer: MovesTensors, one: PlannedTask) -> bool:
    """Whether a fingerprint can tell that the task is unchanged, and nothing is to be done for its parameter in each step."""
    return (
        one.place.flat_slice is None
        and len(optimizer.step_size._shards.parts(one.p)) == 1
        and isinstance(optimizer.state[one.p], dict)
        and not is_unmoved(optimizer, one.p)
        and is_fixed(one.task)
    )


def _own_buffers(optimizer: MovesTensors, p: Tensor, group: Group) -> dict[str, Tensor]:
    """What the method keeps of a parameter; others may keep more beside it."""
    state = optimizer.state.get(p, {})
    own = {name: state[name] for name in optimizer._buffers(group) if name in state}
    return own if optimizer._base is None else own | optimizer._base.buffers(optimizer, p)
