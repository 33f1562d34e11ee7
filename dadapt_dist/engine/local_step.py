"""One pass over all parameters of an optimizer, and the sums that it adds up."""

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .. import kernels
from .option_sets import STAYS, Lots
from .plan_builder import build_plan
from .state import param_state
from .state.buffers import is_unmoved, note_moved
from .step_plan import Options, PlannedLot, StepPlan
from .weighted_sums import Share, gather

if TYPE_CHECKING:
    from .optimizer import LearningRateFree

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
    plan = _plan(optimizer, entries, lots)
    try:
        shares = [_run(optimizer, entries[lot.group][0], lot, dry, skip) for lot in plan.lots]
    finally:
        plan.drop_gradients()
    if not dry and plan.new:
        _note_moved(optimizer, plan.new, skip)
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
    plan, shares = _plan(optimizer, entries, lots), []
    for lot in plan.lots:
        group = entries[lot.group][0]
        sums = [param_state.early_sums(method, task, group) * task.weight for task in lot.tasks]
        shares.append(Share(table.row(group["estimate"]), sums))
    plan.drop_gradients()
    return gather(shares, len(table.names), len(method.early_sums), table.device)


def _coefficients(optimizer: "LearningRateFree", group: dict[str, Any], device: torch.device) -> dict[str, Any]:
    table, row = optimizer.step_size.scalars, optimizer.step_size.scalars.row(group["estimate"])
    scalars = table.on(device, row)
    return optimizer.method.coefficients(group, scalars, table.constants(row)) | {"seed": scalars["k"]}


def _run(
    optimizer: "LearningRateFree", group: dict[str, Any], lot: PlannedLot, dry: bool, skip: Tensor | None
) -> Share:
    method, sums = optimizer.method, []
    for kernel, device, tasks, derived in lot.launches:
        sums.append(kernel.run(method, tasks, _coefficients(optimizer, group, device), dry, skip, derived))
    return Share(optimizer.step_size.scalars.row(group["estimate"]), sums)


# ---------------------------------------------------------------- the plan of a step


def _plan(optimizer: "LearningRateFree", entries: Entries, lots: Lots) -> StepPlan:
    """The plan of the step before, or a new one. Every tensor is looked at before anything moves.

    Raises ValueError or TypeError, with the parameter's name, for one that cannot be used.
    """
    plans, scale = optimizer.plans, getattr(optimizer, "grad_scale", None)  # set by a GradScaler around step()
    version = lots.version, optimizer.step_size.roster.placing, optimizer.backend
    key = lots.of, plans.options(version, partial(_options, optimizer, entries))
    moving = [
        p
        for (_, params), lot in zip(entries, lots.of, strict=True)
        if lot != STAYS
        for p in params
        if p.grad is not None
    ]
    try:
        return plans.plan(key, moving, optimizer.state, scale) or build_plan(
            optimizer, entries, key, scale, _coefficients
        )
    except Exception as error:
        plans.abandon_step()
        if not isinstance(error, kernels.UnfitError):
            raise
        raise error.kind(f"{param_state.described(error.task.param, optimizer.param_groups)}: {error}") from error
    finally:
        plans.drop_gradients()


def _options(optimizer: "LearningRateFree", entries: Entries) -> list[Options]:
    """The options of each group on which its tasks depend."""
    placing, decay = optimizer.step_size.roster.placing, optimizer.method.coupled_decay
    return [(decay(g), g["maximize"], g.get("slice_p"), placing, optimizer.backend) for g, _ in entries]
