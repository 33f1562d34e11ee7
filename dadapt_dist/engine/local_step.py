"""One pass over the local tensors of an optimizer: the kernels that move them, and the sums of what they return."""

import math
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .. import kernels
from ..kernels import Work
from ..sharding.shard import LocalShard
from .option_sets import STAYS, Lots
from .state import param_state
from .state.buffers import is_unmoved, make_ready, note_moved
from .task_cache import Kept, KeptWorks, let_go, renewed

if TYPE_CHECKING:
    from .optimizer import LearningRateFree

Phases = Sequence[str]
Works = list[Work]
Lot = tuple[dict[str, Any], Works]  # a group, and the works of all groups with its options
Entries = Sequence[tuple[dict[str, Any], Sequence[Tensor]]]  # groups with their tensors


def sweep(
    optimizer: "LearningRateFree",
    entries: Entries,
    lots: Lots,
    *,
    phases: Phases = ("after",),
    dry: bool = False,
    skip: Tensor | None = None,
) -> Tensor:
    """Take one step with every tensor that has a gradient; return the weighted sums, float64 [n_estimates, width(phases)].

    Every gradient is checked before any parameter moves. lots: of the groups of the entries. phases: those whose sums are
    taken; all but "after" before anything moves. dry: compute the sums, and leave all tensors as they are. skip: 0-dim bool;
    true: leave all tensors as they are, with sums of 0.
    """
    table = optimizer.step_size.scalars
    total = table.no_sums(phases)
    if skip is not None and kernels.eager.readable(skip.device) and bool(skip):
        return total
    after = total if phases == ("after",) else total[:, -1 - len(optimizer.method.sums) :]
    new: list[Tensor] = []
    found = _works(optimizer, entries, lots, new)
    try:
        _prepare(optimizer, found)
        if after is not total:
            _measure(optimizer, entries, found, phases, total)
        for group, works in found:
            row = table.row(group["estimate"])
            for sums in _run(optimizer, group, works, dry, skip):
                after[row] += sums.to(table.device, non_blocking=True)
    finally:
        for _, works in found:
            let_go(works)
    if not dry:
        _note_moved(optimizer, new, skip)
    if optimizer.step_size.frozen:  # d stays: only the count of non-finite elements is of use
        after[:, :-1] = 0
    return total


def measure(optimizer: "LearningRateFree", entries: Entries, lots: Lots, phases: Phases) -> Tensor:
    """The weighted sums of phases before the weights move: float64 [n_estimates, width(phases)]. Nothing moves."""
    total = optimizer.step_size.scalars.no_sums(phases)
    found = _works(optimizer, entries, lots, [])
    try:
        _prepare(optimizer, found)
        total[:, -1] += _measure(optimizer, entries, found, phases, total)
    finally:
        for _, works in found:
            let_go(works)
    return total


def _measure(
    optimizer: "LearningRateFree", entries: Entries, found: list[Lot], phases: Phases, total: Tensor
) -> Tensor:
    """Add the sums of the phases before the weights move to the total; the count of bad elements, [n_estimates]."""
    table, at = optimizer.step_size.scalars, 0
    bad = torch.zeros(len(table.names), dtype=torch.float64, device=table.device)
    if "start" in phases:
        at = len(table.names_of("start"))
        total[:, at - 1] = 1.0  # taken
        for group, params in entries:
            for p in (p for p in params if p.requires_grad):
                for place, weight in optimizer.step_size.roster.parts(p):
                    terms = torch.stack(optimizer.method.measure_start(place.part(p).detach().to(torch.float64)))
                    total[table.row(group["estimate"]), : at - 1] += (terms * weight).to(
                        table.device, non_blocking=True
                    )
    if "before" in phases:
        for group, works in found:
            row, device = table.row(group["estimate"]), None
            for work in works:
                if work.x.device != device:
                    device = work.x.device
                    c = kernels.eager.numbers(_coefficients(optimizer, group, device), device)
                terms = _before_of(optimizer, work, c).to(table.device, non_blocking=True)
                total[row, at : at + len(terms) - 1] += terms[:-1] * work.weight
                bad[row] += terms[-1] * work.weight
    return bad


def _before_of(optimizer: "LearningRateFree", work: Work, c: dict[str, Any]) -> Tensor:
    """The `before` terms of one tensor, and its count of elements that are not finite or whose square would not be.

    One block at a time, for the temporaries are float64; not ‖g0‖ of D-Adapt SGD, which is taken once.
    """
    method, largest = optimizer.method, math.sqrt(torch.finfo(work.math_dtype()).max)
    blocks = kernels.eager.blocks(work) if optimizer.step_size.scalars.always_before else [work]
    rows = []
    for block in blocks:
        x, buf = block.x.to(torch.float64), {name: t.to(torch.float64) for name, t in block.buf.items()}
        g = block.g.to(torch.float64)
        g = g if block.scale is None else g / block.scale
        g = g.neg() if block.maximize else g
        g = g.add(x, alpha=block.decay)
        fit = g.abs() <= largest
        terms = method.measure_before(x, torch.where(fit, g, 0.0), buf, c)
        rows.append(torch.stack([*terms, (~fit).sum(dtype=torch.float64)]))
    return rows[0] if len(rows) == 1 else torch.stack(rows).sum(0)


def _note_moved(optimizer: "LearningRateFree", new: list[Tensor], skip: Tensor | None) -> None:
    """These may have moved. Waits for the device when one moves for the first time under a GradScaler."""
    if skip is None or not any(is_unmoved(optimizer, p) for p in new) or not bool(skip):
        note_moved(optimizer, new)


def _prepare(optimizer: "LearningRateFree", lots: list[Lot]) -> None:
    """Have every tensor looked at before anything moves. ValueError or TypeError names the parameter that cannot be used."""
    shares = [(works, partial(_coefficients, optimizer, group), optimizer.kept[id(group)]) for group, works in lots]
    try:
        kernels.prepare(optimizer.method, shares, optimizer.backend)
    except kernels.UnfitError as error:
        raise error.kind(f"{param_state.described(error.work.param, optimizer.param_groups)}: {error}") from error


def _coefficients(optimizer: "LearningRateFree", group: dict[str, Any], device: torch.device) -> dict[str, Any]:
    table, row = optimizer.step_size.scalars, optimizer.step_size.scalars.row(group["estimate"])
    scalars = table.on(device, row)
    return optimizer.method.coefficients(group, scalars, table.constants(row)) | {"seed": scalars["k"]}


def _run(
    optimizer: "LearningRateFree", group: dict[str, Any], works: Works, dry: bool, skip: Tensor | None
) -> list[Tensor]:
    return kernels.run(optimizer.method, works, partial(_coefficients, optimizer, group), dry, skip)


def _works(optimizer: "LearningRateFree", entries: Entries, lots: Lots, new: list[Tensor]) -> list[Lot]:
    """Each lot that moves, with the work of its tensors that have a gradient. new: gets those whose work was not kept."""
    found: dict[int, Lot] = {}
    scale, state = getattr(optimizer, "grad_scale", None), optimizer.state
    for (group, params), lot, kept in zip(entries, lots.of, _kept(optimizer, lots, entries), strict=True):
        if lot == STAYS:
            continue
        works = found.setdefault(lot, (group, []))[1]
        for p in params:
            again = renewed(kept, p, state, scale)
            if again is not None:
                if again.x is not p:
                    param_state.check_gradient(p, again.g, again.x, optimizer.method, group, optimizer.param_groups)
                works.append(again)
            elif p.grad is not None:
                new.append(p)
                works += _works_of(optimizer, p, group, kept)
    return list(found.values())


def _works_of(optimizer: "LearningRateFree", p: Tensor, group: dict[str, Any], kept: dict[int, Kept]) -> Works:
    parts = [(place, weight, place.part_gradient(p)) for place, weight in optimizer.step_size.roster.parts(p)]
    works: Works = []
    for place, weight, gradient in parts:
        if gradient is not None:
            param_state.check_gradient(p, gradient, place.part(p), optimizer.method, group, optimizer.param_groups)
            if not works:
                param_state.check_state(p, _own_buffers(optimizer, p, group), group, place, optimizer.param_groups)
                make_ready(optimizer, p, group)
            works.append(_work(optimizer, p, gradient, group, place, weight))
    if len(works) == 1 and parts[0][0].flat_slice is None and not is_unmoved(optimizer, p):
        kept[id(p)] = Kept(p, optimizer.state[p], works[0], parts[0][0])
    return works


def _kept(optimizer: "LearningRateFree", lots: Lots, entries: Entries) -> list[dict[int, Kept]]:
    """What is kept of each group's works from the step before."""
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
    optimizer: "LearningRateFree", p: Tensor, gradient: Tensor, group: dict[str, Any], place: LocalShard, weight: float
) -> Work:
    """The share of the step of one part of a parameter: plain local tensors."""
    return Work(
        x=place.part(p),
        g=gradient,
        buf={name: place.part(t) for name, t in _own_buffers(optimizer, p, group).items()},
        weight=weight,
        decay=optimizer.method.coupled_decay(group),
        maximize=group["maximize"],
        scale=getattr(optimizer, "grad_scale", None),  # set by a GradScaler around step()
        cut=param_state.cut_of(place, group),
        origin=place.global_offset or 0,
        param=p,
    )


def _own_buffers(optimizer: "LearningRateFree", p: Tensor, group: dict[str, Any]) -> dict[str, Tensor]:
    """What the method keeps of a parameter; others may keep more beside it."""
    state = optimizer.state.get(p, {})
    return {name: state[name] for name in optimizer.buffers(group) if name in state}
