"""Clip the gradients of a step by their norm over all tensors of all ranks, as torch's clip_grad_norm_ does on one process.

The factor is known before anything moves: Σ g² of the gradients as they come, unscaled and without decay, is added up by a
blocking reduce. It goes into the steps of all kernels as a loss scale does, which divides the gradient: without clipping
nothing is multiplied. So sums, buffers and weights see the clipped gradient, and none is written back.

The reduce is that of the sums that the method takes before the weights move, where these are polynomials of the gradient
(`methods.by_power`): the ranks add up the sums of each power, of the gradient as it came, and divide them by the factor to that
power once they know it. Else it is a reduce of one number.

Elements that are not finite are left out of the norm, as they are left out of the step: what happens follows `nonfinite`, as
without clipping. Elements that are too large to be squared count, and are small once they are clipped.
"""

from typing import Protocol

import torch
from torch import Tensor

from ..comm.async_all_reduce import Reduce
from ..methods.by_power import PARTS, by_power, extra, powers
from .estimate_state import ScalarTable
from .local_step import Window
from .members import Member, Roster
from .skipped_steps import check_scales

TINY = 1e-6  # added to the norm, as torch does


class Clips(Protocol):
    """A StepSize whose gradients are clipped."""

    clip_norm: float | None
    _clip_scale: Tensor | None
    _roster: Roster

    @property
    def _scalars(self) -> ScalarTable:
        """The scalars of the estimates."""

    @property
    def _reduce(self) -> Reduce:
        """The reduce of a step."""

    def _mark(self) -> None:
        """Let the coming reduce tell the other ranks of this one's options and of its model's steps."""


def scale_of(step_size: Clips) -> Tensor:
    """What the gradients of the coming step are to be divided by, 1 or more: 0-dim float64. A collective of all ranks.

    Where the ranks are in different steps, which is reported elsewhere, nothing is clipped.
    """
    step_size._mark()
    return _scale(step_size, step_size._reduce.now(_squares(step_size).view(1)).view(()))


def rides(table: ScalarTable) -> bool:
    """Whether the norm comes with the `before` sums of a step that takes them: it follows from the method alone.

    It decides on a collective, so it must not hang on the groups and options of a rank, which others may not have.
    """
    return table.method.polynomial_before and table.always_before and extra(table.method) > 0


def riders(table: ScalarTable) -> int:
    """How many numbers more than its sums the reduce has that brings the norm with them."""
    return 1 + extra(table.method) * len(table.names) if rides(table) else 0


def reduce_with_norm(step_size: Clips, window: Window, tag: int) -> tuple[Tensor, Tensor]:
    """The global `before` sums, [n_estimates, n_sums], of the clipped gradients, and what these are to be divided by.

    Each rank takes its sums with gradients about as small as its own norm tells, so that nothing overflows and no power of the
    gradient drowns another; the power of two that it divides by leaves all digits. tag: of the reduce. A collective of all ranks.
    """
    table, split = step_size._scalars, by_power(step_size._scalars.method)
    assert split.before is not None, "only such a method rides"
    own = _squares(step_size).to(table.device)
    step_size._clip_scale = rough = _power_of_two(_scale(step_size, own))
    sums = window.usable(step_size._roster.measured(("before",), split))
    ends = [sums.shape[1] - 1 - len(split.before.names), len(split.before.names), 1]
    losses, parts, bad = sums.split(ends, 1)
    parts = parts.unflatten(1, (PARTS, -1)) * rough ** powers(table.device)
    step_size._mark()
    flat = torch.cat([losses, parts.flatten(1), bad], 1).flatten()
    both = step_size._reduce.now(torch.cat([flat, own.view(1)]), tag)
    scale = _scale(step_size, both[-1])
    losses, parts, bad = both[:-1].view(sums.shape).split(ends, 1)
    parts = parts.unflatten(1, (PARTS, -1)) / scale ** powers(table.device)
    return torch.cat([losses, torch.where(scale == 1, parts[:, 0], parts[:, 1:].sum(1)), bad], 1), scale


def _squares(step_size: Clips) -> Tensor:
    check_scales(step_size._roster)
    return torch.stack([member._squares() for member in step_size._roster]).sum(0)


def _scale(step_size: Clips, squares: Tensor) -> Tensor:
    assert step_size.clip_norm is not None, "the caller has looked"
    scale = ((torch.sqrt(squares) + TINY) / step_size.clip_norm).clamp_min(1.0)
    return torch.where(torch.isfinite(squares), scale, 1.0)


def _power_of_two(scale: Tensor) -> Tensor:
    """The largest that is not above it."""
    return scale / (2 * torch.frexp(scale).mantissa)


def check_whole(members: "Roster | list[Member]", clip_norm: float | None) -> None:
    """Raise ValueError where a framework flattens the gradients and clips them itself."""
    if clip_norm is not None and any(member._brought_by.replaces_parameters for member in members):
        raise ValueError(
            f"clip_norm={clip_norm!r}: the framework keeps gradients of its own, and clips them itself. Leave clip_norm out, and "
            'set "gradient_clipping" in the DeepSpeed configuration, which clips by the same norm.'
        )
