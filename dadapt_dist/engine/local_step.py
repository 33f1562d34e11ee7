"""One step on this rank: a pass over the local tensors of each optimizer, and the window in which their sums come together."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from .. import kernels
from ..kernels import TensorTask
from ..methods.base import Method
from ..methods.by_power import DECAY, extra
from . import loss_channel
from .grad_norms import GradNorms
from .members import MovesTensors
from .option_sets import STAYS, Lots
from .per_tensor import TensorLots
from .plan_builder import build_plan
from .state import param_state
from .state.buffers import is_unmoved, note_moved
from .step_plan import Options, StepPlan

Phases = Sequence[str]
Entries = Sequence[tuple[dict[str, Any], Sequence[Tensor]]]  # groups with their tensors


@dataclass
class Window:
    """One open step of all optimizers that share a StepSize.

    sums: what this rank has added up so far, float64 [n_estimates, width(phases)]. phases: whose sums these are. reduced: the
    global sums, when they were needed inside the step; squares, norms: the global Σx² of each tensor, and the sums of the norms
    of the gradients then, where they are kept.
    skipped: nothing moves in this step. moves: some group has lr > 0. launches: its end starts a reduce. measured: the global
    sums of before it, where it has no others. arrived, missing: keys of the pieces that have come and are still to come: ids of
    optimizers, or of tensors of one whose steps come in pieces.
    overflow: 0-dim bool, did a GradScaler find an overflow in the piece that comes, on any rank? None: nobody looked.
    overflows: the same of any piece of the step. gave: has an optimizer of this rank had a loss? fault: what is wrong with the
    losses, for which the step is refused.
    """

    sums: Tensor
    phases: tuple[str, ...] = ("after",)
    reduced: Tensor | None = None
    squares: Tensor | None = None
    norms: Tensor | None = None
    skipped: bool = False
    moves: bool = False
    launches: bool = True
    measured: Tensor | None = None
    arrived: set[int] = field(default_factory=set)
    missing: set[int] = field(default_factory=set)
    overflow: Tensor | None = None
    overflows: Tensor | None = None
    gave: bool = False
    fault: str | None = None

    def leave_out(self, overflow: Tensor | None) -> None:
        """Say whether the coming piece overflowed: its tensors stay, and so does d, for it needs the sums of all pieces."""
        self.overflow = overflow
        if overflow is not None:
            self.overflows = overflow if self.overflows is None else self.overflows | overflow

    def usable(self, sums: Tensor) -> Tensor:
        """The sums; 0, as of a step without gradients, when a piece overflowed."""
        return sums if self.overflows is None else torch.where(self.overflows, 0.0, sums)


def packed(sums: Tensor, squares: Tensor | None, norms: GradNorms | None) -> Tensor:
    """The sums of a step, and behind them what rides with them in its reduce: the squares of each tensor, and the norms."""
    found = [rider.to(sums.device) for rider in (squares, None if norms is None else norms.local) if rider is not None]
    return torch.cat([sums.flatten(), *found]) if found else sums


def unpacked(sums: Tensor, shape: torch.Size, norms: GradNorms | None) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """The sums, of this shape, the squares, and the norms; None for those that did not ride with them."""
    if sums.numel() == shape.numel():
        return sums.view(shape), None, None
    flat, end = sums.flatten(), sums.numel() - (0 if norms is None else norms.local.numel())
    squares = flat[shape.numel() : end]
    return flat[: shape.numel()].view(shape), squares if len(squares) else None, None if norms is None else flat[end:]


def sweep(
    optimizer: MovesTensors,
    entries: Entries,
    lots: Lots | TensorLots,
    *,
    phases: Phases = ("after",),
    dry: bool = False,
    skip: Tensor | None = None,
    squares: Tensor | None = None,
) -> Tensor:
    """Take one step with every tensor that has a gradient; return the weighted sums, float64 [n_estimates, width(phases)].

    Every gradient is checked before any parameter moves. lots: of the groups of the entries. phases: those whose sums are
    taken; all but "after" before anything moves. dry: compute the sums, and leave all tensors as they are. skip: 0-dim bool;
    true: leave all tensors as they are, with sums of 0. squares: float64 [n_tensors], gets this rank's Σx² of the tensors that
    take the step; None where nobody asks for them.
    """
    table = optimizer.step_size._scalars
    total = table.no_sums(phases)
    if skip is not None and kernels.eager.readable(skip.device) and bool(skip):
        return total
    after, method = total, optimizer._method
    if phases != ("after",) or method.wants_loss:
        after = total[:, -1 - len(method.sums) :]
        _add_loss(optimizer, total, phases)
    plan = _plan(optimizer, entries, lots)
    rms = None if optimizer.step_size._rms is None else optimizer.step_size._rms.now()
    try:
        _add_norms(optimizer, plan)
        if phases != ("after",):
            _measure(optimizer, entries, lots, plan, phases, total)
        if optimizer._base is not None and not dry:
            optimizer._base.step(optimizer, plan, skip)
        for lot in plan.lots:
            group = entries[lot.group][0]
            row = table.row(group["estimate"])
            for kernel, device, tasks, derived in lot.launches:
                c = coefficients(optimizer, group, device)
                apart = None if rms is None or squares is None else _apart(optimizer, group, rms, squares, device)
                sums = _run(kernel, method, tasks, c, dry, skip, derived, apart)
                if apart is not None and squares is not None and apart.squares is not squares:
                    found = apart.squares.to(squares.device, non_blocking=True)
                    squares.copy_(torch.where(found.isnan(), squares, found))
                after[row] += sums.to(table.device, non_blocking=True)
    finally:
        plan.drop_gradients()
    if not dry and plan.new:
        _note_moved(optimizer, plan.new, skip)
    if optimizer.step_size.frozen:  # d stays: only the count of non-finite elements is of use
        after[:, :-1] = 0
    return total


def measure(
    optimizer: MovesTensors, entries: Entries, lots: Lots | TensorLots, phases: Phases, split: Method | None = None
) -> Tensor:
    """The weighted sums of phases before the weights move: float64 [n_estimates, width(phases)]. Nothing moves.

    split: the method `by_power`, whose `before` sums then stand in the place of the method's.
    """
    table, wider = optimizer.step_size._scalars, 0 if split is None else extra(optimizer._method)
    total = torch.nn.functional.pad(table.no_sums(phases), (wider, 0))
    _add_loss(optimizer, total, phases)
    plan = _plan(optimizer, entries, lots)
    try:
        total[:, -1] += _measure(optimizer, entries, lots, plan, phases, total, split)
    finally:
        plan.drop_gradients()
    return total


def _add_loss(optimizer: MovesTensors, total: Tensor, phases: Phases) -> None:
    """Add the loss of this rank to the sums of these phases, which have none yet."""
    names = {phase: optimizer.step_size._scalars.names_of(phase) for phase in phases}
    loss_channel.add(total, optimizer.loss, optimizer._method, names, optimizer.step_size._shards.contrast)


def squares(optimizer: MovesTensors, entries: Entries, lots: Lots | TensorLots) -> Tensor:
    """The weighted sum of the squares of all gradients that take part in the coming step: 0-dim float64. Nothing moves.

    Unscaled, without decay, and without the elements that are not finite.
    """
    device = optimizer.step_size._scalars.device
    total = torch.zeros((), dtype=torch.float64, device=device)
    plan = _plan(optimizer, entries, lots)
    try:
        for lot in plan.lots:
            for task in lot.tasks:
                found = torch.stack([_squares_of(block) for block in kernels.eager.blocks(task)]).sum()
                total += (found * task.weight).to(device, non_blocking=True)
    finally:
        plan.drop_gradients()
    return total


def _squares_of(task: TensorTask) -> Tensor:
    g = task.g.coalesce().values() if task.g.is_sparse else task.g
    norm: Tensor = torch.linalg.vector_norm(g, dtype=torch.float64)
    if not kernels.eager.readable(g.device) or not bool(torch.isfinite(norm)):
        norm = torch.linalg.vector_norm(torch.where(torch.isfinite(g), g, 0.0), dtype=torch.float64)
    norm = norm if task.scale is None else norm / task.scale
    return norm * norm


def _measure(
    optimizer: MovesTensors,
    entries: Entries,
    lots: Lots | TensorLots,
    plan: StepPlan,
    phases: Phases,
    total: Tensor,
    split: Method | None = None,
) -> Tensor:
    """Add the sums of the phases before the weights move to the total; the count of bad elements, [n_estimates]."""
    table, at, method = optimizer.step_size._scalars, 0, optimizer._method if split is None else split
    bad = torch.zeros(len(table.names), dtype=torch.float64, device=table.device)
    if "start" in phases:
        at = len(table.names_of("start"))
        total[:, at - 1] = float(lots.moves)  # taken; weights may come after a step in which every lr is 0
        _measure_start(optimizer, entries, total[:, : at - 1])
    if "before" in phases:
        at += len(loss_channel.COLUMNS) * loss_channel.phase_has_loss(optimizer._method, "before")
        if optimizer._base is not None and any(optimizer._method.measures_update(group) for group, _ in entries):
            optimizer._base.rehearse(optimizer, plan)
        for lot in plan.lots:
            group = entries[lot.group][0]
            row = table.row(group["estimate"])
            for kernel, device, tasks, derived in lot.launches if table.always_before else _one_by_one(lot.tasks):
                c = coefficients(optimizer, group, device)
                c = c if split is None else c | {DECAY: optimizer._method.coupled_decay(group) or None}
                terms = _terms(kernel, method, tasks, c, derived)
                terms = terms.to(table.device, non_blocking=True)
                total[row, at : at + len(terms) - 1] += terms[:-1]
                bad[row] += terms[-1]
    return bad


def _measure_start(optimizer: MovesTensors, entries: Entries, total: Tensor) -> None:
    """Add the sums of the start to the total, [n_estimates, n_sums]."""
    table = optimizer.step_size._scalars
    for group, params in entries:
        for p in (p for p in params if p.requires_grad):
            for place, weight in optimizer.step_size._shards.parts(p):
                for x in place.unpadded(p.detach()):
                    terms = torch.stack(optimizer._method.measure_start(x.to(torch.float64))) * weight
                    total[table.row(group["estimate"])] += terms.to(table.device, non_blocking=True)


def _run(kernel: Any, method: Any, tasks: Any, c: Any, dry: bool, skip: Any, derived: Any, apart: Any) -> Tensor:
    """What the kernel returns; the plain loop runs where no kernel can be made for these coefficients."""
    sums: Tensor | None = kernel.run(method, tasks, c, dry, skip, derived, apart)
    return kernels.eager.run(method, tasks, c, dry, skip, None, apart) if sums is None else sums


def _one_by_one(tasks: Sequence[TensorTask]) -> list[kernels.Launch]:
    """For what is measured once, such as ‖g0‖ of D-Adapt SGD: in the order of the tensors, as plain operations."""
    return [kernels.Launch(None, task.x.device, [task], None) for task in tasks]


def _terms(kernel: Any, method: Any, tasks: Any, c: Any, derived: Any) -> Tensor:
    """The sums of before a step."""
    terms: Tensor | None = None if kernel is None else kernel.measure(method, tasks, c, derived)
    return kernels.eager.measure(method, tasks, c, whole=kernel is None) if terms is None else terms


def _add_norms(optimizer: MovesTensors, plan: StepPlan) -> None:
    """Add up the gradients of a plan, before anything moves, where their norms are asked for."""
    norms = optimizer.step_size._norms
    if norms is not None:
        norms.add(task for lot in plan.lots for task in lot.tasks)


def _note_moved(optimizer: MovesTensors, new: list[Tensor], skip: Tensor | None) -> None:
    """These may have moved. Waits for the device when one moves for the first time under a GradScaler."""
    if skip is None or not any(is_unmoved(optimizer, p) for p in new) or not bool(skip):
        note_moved(optimizer, new)


def coefficients(optimizer: MovesTensors, group: dict[str, Any], device: torch.device) -> dict[str, Any]:
    """What the coming step of a group multiplies by, on a device."""
    table, row = optimizer.step_size._scalars, optimizer.step_size._scalars.row(group["estimate"])
    scalars = table.on(device, row)
    return optimizer._method.coefficients(group, scalars, table.constants(row)) | {"seed": scalars["k"]}


def _apart(
    optimizer: MovesTensors, group: dict[str, Any], rms: Tensor, squares: Tensor, device: torch.device
) -> kernels.PerTensor:
    """What the coming step of a group does with each tensor of the model apart.

    rms, squares: float64 [n_tensors], where the scalars live. On another device the squares come back as NaN for the tensors
    that are not there.
    """
    table, row = optimizer.step_size._scalars, optimizer.step_size._scalars.row(group["estimate"])
    factors = optimizer._method.tensor_factors(rms, group, table.of(row), table.constants(row))
    if squares.device == device:
        return kernels.PerTensor(factors, squares)
    factors = factors.to(device, non_blocking=device.type != "cpu")
    return kernels.PerTensor(factors, torch.full_like(factors, torch.nan))


# ---------------------------------------------------------------- the plan of a step


def _plan(optimizer: MovesTensors, entries: Entries, lots: Lots | TensorLots) -> StepPlan:
    """The plan of the step before, or a new one. Every tensor is looked at before anything moves.

    Raises ValueError or TypeError, with the parameter's name, for one that cannot be used.
    """
    plans, scale = optimizer._plans, getattr(optimizer, "grad_scale", None)  # set by a GradScaler around step()
    clip = optimizer.step_size._clip_scale
    if clip is not None:
        scale = clip if scale is None else scale * clip.to(scale.device, non_blocking=True)
    version = lots.version, optimizer.step_size._shards.placing, optimizer._backend
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
            optimizer, entries, key, scale, coefficients
        )
    except Exception as error:
        plans.abandon_step()
        if not isinstance(error, kernels.UnfitError):
            raise
        raise error.kind(f"{param_state.described(error.task.param, optimizer.param_groups)}: {error}") from error
    finally:
        plans.drop_gradients()


def _options(optimizer: MovesTensors, entries: Entries) -> list[Options]:
    """The options of each group on which its tasks depend."""
    placing, decay = optimizer.step_size._shards.placing, optimizer._method.coupled_decay
    return [(decay(g), g["maximize"], g.get("slice_p"), placing, optimizer._backend) for g, _ in entries]
