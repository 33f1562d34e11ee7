"""How does one pass over all parameters of an optimizer run, and what does it add up?"""

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .. import kernels
from ..kernels import TensorTask
from ..sharding.registry import Placement
from .option_sets import STAYS, Lots
from .state import param_state
from .state.buffers import is_unmoved, make_ready, note_moved
from .task_cache import Kept, KeptWorks, let_go, renewed
from .weighted_sums import Share, gather

if TYPE_CHECKING:
    from .optimizer import LearningRateFree

Tasks = list[TensorTask]
Lot = tuple[dict[str, Any], Tasks]  # a group, and the tasks of all groups with its options
Entries = Sequence[tuple[dict[str, Any], Sequence[Tensor]]]  # groups with their tensors


def sweep(
    optimizer: "LearningRateFree", entries: Entries, lots: Lots, *, dry: bool = False, skip: Tensor | None = None
) -> Tensor:
    """Take one step with every tensor that has a gradient; return the weighted sums, float64 [n_estimates, n_sums + 1].

    Every gradient is checked before any parameter moves. lots: of the groups of the entries. dry: compute the sums, and
    leave all tensors as they are. skip: 0-dim bool; true: leave all tensors as they are, with sums of 0.
    """
    width, frozen = len(optimizer.method.sums) + 1, optimizer.step_size.frozen
    if skip is not None and kernels.eager.readable(skip.device) and bool(skip):
        return optimizer.step_size.scalars.no_sums()
    new: list[Tensor] = []
    found = _works(optimizer, entries, lots, new)
    try:
        _prepare(optimizer, found)
        shares = [_run(optimizer, group, tasks, dry, skip) for group, tasks in found]
    finally:
        for _, tasks in found:
            let_go(tasks)
    if not dry:
        _note_moved(optimizer, new, skip)
    total = gather(shares, len(optimizer.step_size.scalars.names), width, optimizer.step_size.scalars.device)
    if frozen:  # d stays: only the count of non-finite elements is of use
        total[:, :-1] = 0
    return total


def _note_moved(optimizer: "LearningRateFree", new: list[Tensor], skip: Tensor | None) -> None:
    """These may have moved. Waits for the device when one moves for the first time under a GradScaler."""
    if skip is None or not any(is_unmoved(optimizer, p) for p in new) or not bool(skip):
        note_moved(optimizer, new)


def sweep_early(optimizer: "LearningRateFree", entries: Entries, lots: Lots) -> Tensor:
    """Early sums of the gradients, weighted: float64 [n_estimates, n_early_sums]."""
    method, table = optimizer.method, optimizer.step_size.scalars
    found = _works(optimizer, entries, lots, [])
    _prepare(optimizer, found)
    shares = [
        Share(
            table.row(group["estimate"]), [param_state.early_sums(method, task, group) * task.weight for task in tasks]
        )
        for group, tasks in found
    ]
    return gather(shares, len(table.names), len(method.early_sums), table.device)


def _prepare(optimizer: "LearningRateFree", lots: list[Lot]) -> None:
    """Have every tensor looked at before anything moves. ValueError or TypeError names the parameter that cannot be used."""
    shares = [(tasks, partial(_coefficients, optimizer, group), optimizer.kept[id(group)]) for group, tasks in lots]
    try:
        kernels.prepare(optimizer.method, shares, optimizer.backend)
    except kernels.UnfitError as error:
        raise error.kind(f"{param_state.described(error.task.param, optimizer.param_groups)}: {error}") from error


def _coefficients(optimizer: "LearningRateFree", group: dict[str, Any], device: torch.device) -> dict[str, Any]:
    table, row = optimizer.step_size.scalars, optimizer.step_size.scalars.row(group["estimate"])
    scalars = table.on(device, row)
    return optimizer.method.coefficients(group, scalars, table.constants(row)) | {"seed": scalars["k"]}


def _run(optimizer: "LearningRateFree", group: dict[str, Any], tasks: Tasks, dry: bool, skip: Tensor | None) -> Share:
    row = optimizer.step_size.scalars.row(group["estimate"])
    coefficients = partial(_coefficients, optimizer, group)
    return Share(row, kernels.run(optimizer.method, tasks, coefficients, dry, skip))


def _works(optimizer: "LearningRateFree", entries: Entries, lots: Lots, new: list[Tensor]) -> list[Lot]:
    """Each lot that moves, with the task of its tensors that have a gradient. new: gets those whose task was not kept."""
    found: dict[int, Lot] = {}
    scale, state = getattr(optimizer, "grad_scale", None), optimizer.state
    for (group, params), lot, kept in zip(entries, lots.of, _kept(optimizer, lots, entries), strict=True):
        if lot == STAYS:
            continue
        tasks = found.setdefault(lot, (group, []))[1]
        for p in params:
            again = renewed(kept, p, state, scale)
            if again is not None:
                if again.x is not p:
                    param_state.check_gradient(p, again.g, again.x, optimizer.method, group, optimizer.param_groups)
                tasks.append(again)
            elif p.grad is not None:
                new.append(p)
                tasks += _works_of(optimizer, p, group, kept)
    return list(found.values())


def _works_of(optimizer: "LearningRateFree", p: Tensor, group: dict[str, Any], kept: dict[int, Kept]) -> Tasks:
    parts = [(place, weight, place.part_gradient(p)) for place, weight in optimizer.step_size.roster.parts(p)]
    tasks: Tasks = []
    for place, weight, gradient in parts:
        if gradient is not None:
            param_state.check_gradient(p, gradient, place.part(p), optimizer.method, group, optimizer.param_groups)
            if not tasks:
                param_state.check_state(p, _own_buffers(optimizer, p, group), group, place, optimizer.param_groups)
                make_ready(optimizer, p, group)
            tasks.append(_work(optimizer, p, gradient, group, place, weight))
    if len(tasks) == 1 and parts[0][0].run is None and not is_unmoved(optimizer, p):
        kept[id(p)] = Kept(p, optimizer.state[p], tasks[0], parts[0][0])
    return tasks


def _kept(optimizer: "LearningRateFree", lots: Lots, entries: Entries) -> list[dict[int, Kept]]:
    """What is kept of each group's tasks from the step before."""
    placing = optimizer.step_size.roster.placing
    if lots.kept_for[0] is not optimizer.kept or lots.kept_for[1:] != (lots.version, placing, optimizer.backend):
        lots.kept_for = optimizer.kept, lots.version, placing, optimizer.backend
        lots.kept = [_kept_of(optimizer, group, placing) for group, _ in entries]
    return lots.kept


def _kept_of(optimizer: "LearningRateFree", group: dict[str, Any], placing: int) -> dict[int, Kept]:
    options = (
        optimizer.method.coupled_decay(group),
        group["maximize"],
        group.get("slice_p"),
        placing,
        optimizer.backend,
    )
    return optimizer.kept.setdefault(id(group), KeptWorks()).of(group, options)


def _work(
    optimizer: "LearningRateFree", p: Tensor, gradient: Tensor, group: dict[str, Any], place: Placement, weight: float
) -> TensorTask:
    """The share of the step of one part of a parameter: plain local tensors."""
    return TensorTask(
        x=place.part(p),
        g=gradient,
        buf={name: place.part(t) for name, t in _own_buffers(optimizer, p, group).items()},
        weight=weight,
        decay=optimizer.method.coupled_decay(group),
        maximize=group["maximize"],
        scale=getattr(optimizer, "grad_scale", None),  # set by a GradScaler around step()
        cut=param_state.cut_of(place, group),
        origin=place.start or 0,
        param=p,
    )


def _own_buffers(optimizer: "LearningRateFree", p: Tensor, group: dict[str, Any]) -> dict[str, Tensor]:
    """What the method keeps of a parameter; others may keep more beside it."""
    state = optimizer.state.get(p, {})
    return {name: state[name] for name in optimizer.buffers(group) if name in state}
