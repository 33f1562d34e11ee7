"""Clip the gradients of a step by their norm over all tensors of all ranks, as torch's clip_grad_norm_ does on one process.

The factor is known before anything moves: Σ g² of the gradients as they come, unscaled and without decay, is added up by a
blocking reduce. It goes into the steps of all kernels as a loss scale does, which divides the gradient: without clipping
nothing is multiplied. So sums, buffers and weights see the clipped gradient, and none is written back.

The reduce is that of the sums that the method takes before the weights move, where each of them is a power of the gradient:
those are of the gradient as it came, and then divided by the factor to that power. Else it is a reduce of one number.

Elements that are not finite are left out of the norm, as they are left out of the step: what happens follows `nonfinite`, as
without clipping. Elements that are too large to be squared count, and are small once they are clipped.
"""

from typing import Protocol

import torch
from torch import Tensor

from ..comm.async_all_reduce import Reduce
from .estimate_state import ScalarTable
from .members import Member, Roster
from .skipped_steps import check_scales

TINY = 1e-6  # added to the norm, as torch does


class Clips(Protocol):
    """A StepSize whose gradients are clipped."""

    clip_norm: float | None
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


def powers(step_size: Clips) -> Tensor | None:
    """The power of the gradient in each `before` sum of the method, losses and counts of elements among them; None: of no one.

    float64 [n_sums]. It decides on a collective, so it follows from the method alone and not from the groups of a rank.
    """
    table = step_size._scalars
    powers = table.method.gradient_powers
    if powers is None:
        return None
    ahead = len(table.names_of("before")) - len(powers)  # losses
    return torch.tensor([0] * ahead + [*powers, 0], dtype=torch.float64, device=table.device)


def reduce_with(step_size: Clips, sums: Tensor, powers: Tensor, tag: int) -> tuple[Tensor, Tensor]:
    """The global sums, [n_estimates, n_sums], of the clipped gradients, and what these are to be divided by.

    sums: of the gradients as they came. tag: of the reduce. A collective of all ranks, whose marks the caller has set.
    """
    both = step_size._reduce.now(torch.cat([sums.flatten(), _squares(step_size).to(sums.device).view(1)]), tag)
    scale = _scale(step_size, both[-1])
    return both[:-1].view(sums.shape) / scale**powers, scale


def _squares(step_size: Clips) -> Tensor:
    check_scales(step_size._roster)
    return torch.stack([member._squares() for member in step_size._roster]).sum(0)


def _scale(step_size: Clips, squares: Tensor) -> Tensor:
    assert step_size.clip_norm is not None, "the caller has looked"
    scale = ((torch.sqrt(squares) + TINY) / step_size.clip_norm).clamp_min(1.0)
    return torch.where(torch.isfinite(squares), scale, 1.0)


def check_whole(members: "Roster | list[Member]", clip_norm: float | None) -> None:
    """Raise ValueError where a framework flattens the gradients and clips them itself."""
    if clip_norm is not None and any(member._brought_by.replaces_parameters for member in members):
        raise ValueError(
            f"clip_norm={clip_norm!r}: the framework keeps gradients of its own, and clips them itself. Leave clip_norm out, and "
            'set "gradient_clipping" in the DeepSpeed configuration, which clips by the same norm.'
        )
