"""How does one pass over all parameters of an optimizer run, and what does it add up?"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from . import state as states
from .kernels import Work, numbers
from .sums import Share, gather

if TYPE_CHECKING:
    from .optimizer import LearningRateFree

Kernel = Callable[..., list[Tensor]]
Works = list[tuple[Work, float]]  # with the weight 1/copies of each
Entries = Iterable[tuple[dict[str, Any], Sequence[Tensor]]]  # groups with their tensors


def sweep(optimizer: "LearningRateFree", kernel: Kernel, entries: Entries) -> Tensor:
    """Run the kernel over every tensor that has a gradient; return the weighted sums, float64 [n_estimates, n_sums + 1].

    Every gradient is checked before any parameter moves.
    """
    width, frozen = len(optimizer.method.sums) + 1, optimizer.step_size.frozen
    shares = [_run(optimizer, kernel, group, works) for group, works in list(_works(optimizer, entries))]
    if frozen:  # d stays: only the count of non-finite elements is of use
        return torch.nn.functional.pad(_gathered(optimizer, shares, 1), (width - 1, 0))
    return _gathered(optimizer, shares, width)


def sweep_early(optimizer: "LearningRateFree", entries: Entries) -> Tensor:
    """Early sums of the gradients, weighted: float64 [n_estimates, n_early_sums]."""
    shares = []
    for group, works in _works(optimizer, entries):
        share = Share(optimizer.step_size.scalars.row(group["estimate"]))
        for work, weight in works:
            share.add(weight, states.early_sums(optimizer.method, work, group))
        shares.append(share)
    return _gathered(optimizer, shares, len(optimizer.method.early_sums))


def _run(optimizer: "LearningRateFree", kernel: Kernel, group: dict[str, Any], works: Works) -> Share:
    table, method, frozen = optimizer.step_size.scalars, optimizer.method, optimizer.step_size.frozen
    share = Share(table.row(group["estimate"]))
    coefficients: dict[torch.device, dict[str, Any]] = {}
    for work, weight in works:
        device = work.x.device
        if device not in coefficients:
            c = method.coefficients(group, table.on(device, share.row), table.constants(share.row))
            coefficients[device] = numbers(c, device)
        sums = kernel(method, work, coefficients[device])
        share.add(weight, sums[-1:] if frozen else sums)
    return share


def _works(optimizer: "LearningRateFree", entries: Entries) -> Iterator[tuple[dict[str, Any], Works]]:
    """Each group that moves, with the work of its tensors that have a gradient."""
    for group, params in entries:
        if float(group["lr"]) == 0:
            continue
        works: Works = []
        for p in params:
            works += _works_of(optimizer, p, group)
        yield group, works


def _works_of(optimizer: "LearningRateFree", p: Tensor, group: dict[str, Any]) -> Works:
    parts = [(place, weight, place.part_gradient(p)) for place, weight in optimizer.step_size.roster.parts(p)]
    works: Works = []
    for place, weight, gradient in parts:
        if gradient is not None:
            states.check_gradient(p, gradient, place.part(p), optimizer.method, group)
            if not works:
                optimizer.make_ready(p, group)
            works.append((optimizer.work(p, gradient, group, place), weight))
    return works


def _gathered(optimizer: "LearningRateFree", shares: list[Share], width: int) -> Tensor:
    table = optimizer.step_size.scalars
    return gather(shares, len(table.names), width, table.device)
