"""How does one pass over all parameters of an optimizer run, and what does it add up?"""

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from . import kernels
from . import state as states
from .adapters import Placement
from .kept import Kept, KeptWorks, let_go, renewed
from .kernels import Work
from .sums import Share, gather

if TYPE_CHECKING:
    from .optimizer import LearningRateFree

Works = list[Work]
Entries = Iterable[tuple[dict[str, Any], Sequence[Tensor]]]  # groups with their tensors


def sweep(optimizer: "LearningRateFree", entries: Entries, *, dry: bool = False) -> Tensor:
    """Take one step with every tensor that has a gradient; return the weighted sums, float64 [n_estimates, n_sums + 1].

    Every gradient is checked before any parameter moves. dry: compute the sums, and leave all tensors as they are.
    """
    width, frozen = len(optimizer.method.sums) + 1, optimizer.step_size.frozen
    new: list[Tensor] = []
    groups = list(_works(optimizer, entries, new))
    try:
        _prepare(optimizer, groups)
        shares = [_run(optimizer, group, works, dry) for group, works in groups]
    finally:
        for _, works in groups:
            let_go(works)
    if not dry:
        optimizer.anchored.update(new)
    total = gather(shares, len(optimizer.step_size.scalars.names), width, optimizer.step_size.scalars.device)
    if frozen:  # d stays: only the count of non-finite elements is of use
        total[:, :-1] = 0
    return total


def sweep_early(optimizer: "LearningRateFree", entries: Entries) -> Tensor:
    """Early sums of the gradients, weighted: float64 [n_estimates, n_early_sums]."""
    method, table = optimizer.method, optimizer.step_size.scalars
    shares = [
        Share(table.row(group["estimate"]), [states.early_sums(method, work, group) * work.weight for work in works])
        for group, works in _works(optimizer, entries, [])
    ]
    return gather(shares, len(table.names), len(method.early_sums), table.device)


def _prepare(optimizer: "LearningRateFree", groups: list[tuple[dict[str, Any], Works]]) -> None:
    """Have every tensor looked at before anything moves. ValueError or TypeError names the parameter that cannot be used."""
    shares = [(works, partial(_coefficients, optimizer, group), optimizer.kept[id(group)]) for group, works in groups]
    try:
        kernels.prepare(optimizer.method, shares, optimizer.backend)
    except kernels.UnfitError as error:
        raise error.kind(f"{states.described(error.work.param, optimizer.param_groups)}: {error}") from error


def _coefficients(optimizer: "LearningRateFree", group: dict[str, Any], device: torch.device) -> dict[str, Any]:
    table, row = optimizer.step_size.scalars, optimizer.step_size.scalars.row(group["estimate"])
    scalars = table.on(device, row)
    return optimizer.method.coefficients(group, scalars, table.constants(row)) | {"seed": scalars["k"]}


def _run(optimizer: "LearningRateFree", group: dict[str, Any], works: Works, dry: bool) -> Share:
    row = optimizer.step_size.scalars.row(group["estimate"])
    coefficients = partial(_coefficients, optimizer, group)
    return Share(row, kernels.run(optimizer.method, works, coefficients, optimizer.backend, dry))


def _works(
    optimizer: "LearningRateFree", entries: Entries, new: list[Tensor]
) -> Iterator[tuple[dict[str, Any], Works]]:
    """Each group that moves, with the work of its tensors that have a gradient. new: gets those whose work was not kept."""
    for group, params in entries:
        if float(group["lr"]) == 0:
            continue
        kept, scale = _kept(optimizer, group), getattr(optimizer, "grad_scale", None)
        works: Works = []
        for p in params:
            again = renewed(kept, p, optimizer.state, scale)
            if again is not None:
                if again.x is not p:
                    states.check_gradient(p, again.g, again.x, optimizer.method, group)
                works.append(again)
            elif p.grad is not None:
                new.append(p)
                works += _works_of(optimizer, p, group, kept)
        yield group, works


def _works_of(optimizer: "LearningRateFree", p: Tensor, group: dict[str, Any], kept: dict[int, Kept]) -> Works:
    parts = [(place, weight, place.part_gradient(p)) for place, weight in optimizer.step_size.roster.parts(p)]
    works: Works = []
    for place, weight, gradient in parts:
        if gradient is not None:
            states.check_gradient(p, gradient, place.part(p), optimizer.method, group)
            if not works:
                states.check_state(p, optimizer.state.get(p), group, place)
                optimizer.make_ready(p, group)
            works.append(_work(optimizer, p, gradient, group, place, weight))
    if len(works) == 1 and parts[0][0].run is None and p in optimizer.anchored:
        kept[id(p)] = Kept(p, optimizer.state[p], works[0], parts[0][0])
    return works


def _kept(optimizer: "LearningRateFree", group: dict[str, Any]) -> dict[int, Kept]:
    """What is kept of a group's works from the step before."""
    placing = optimizer.step_size.roster.placing
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
) -> Work:
    """The share of the step of one part of a parameter: plain local tensors."""
    return Work(
        x=place.part(p),
        g=gradient,
        buf={name: place.part(t) for name, t in optimizer.state[p].items()},
        weight=weight,
        decay=optimizer.method.coupled_decay(group),
        maximize=group["maximize"],
        scale=getattr(optimizer, "grad_scale", None),  # set by a GradScaler around step()
        cut=states.cut_of(place, group),
        origin=place.start or 0,
        param=p,
    )
