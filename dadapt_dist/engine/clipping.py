"""Clip the gradients of a step by their norm over all tensors of all ranks, as torch's clip_grad_norm_ does on one process.

The factor is known before anything moves: Σ g² of the gradients as they come, unscaled and without decay, is added up by a
blocking reduce of one number. It goes into the steps of all kernels as a loss scale does, which divides the gradient: without
clipping nothing is multiplied. So sums, buffers and weights see the clipped gradient, and none is written back.

Elements that are not finite are left out of the norm, as they are left out of the step: what happens follows `nonfinite`, as
without clipping. Elements that are too large to be squared count, and are small once they are clipped.
"""

from typing import Protocol

import torch
from torch import Tensor

from ..comm.async_all_reduce import Reduce
from .members import Member, Roster
from .skipped_steps import check_scales

TINY = 1e-6  # added to the norm, as torch does


class Clips(Protocol):
    """A StepSize whose gradients are clipped."""

    clip_norm: float | None
    _roster: Roster

    @property
    def _reduce(self) -> Reduce:
        """The reduce of a step."""

    def _mark(self) -> None:
        """Let the coming reduce tell the other ranks of this one's options and of its model's steps."""


def scale_of(step_size: Clips) -> Tensor:
    """What the gradients of the coming step are to be divided by, 1 or more: 0-dim float64. A collective of all ranks.

    Where the ranks are in different steps, which is reported elsewhere, nothing is clipped.
    """
    assert step_size.clip_norm is not None, "the caller has looked"
    check_scales(step_size._roster)
    squares = torch.stack([member._squares() for member in step_size._roster]).sum(0)
    step_size._mark()
    norm = torch.sqrt(step_size._reduce.now(squares.view(1)).view(()))
    scale = ((norm + TINY) / step_size.clip_norm).clamp_min(1.0)
    return torch.where(torch.isfinite(norm), scale, 1.0)


def check_whole(members: "Roster | list[Member]", clip_norm: float | None) -> None:
    """Raise ValueError where a framework flattens the gradients and clips them itself."""
    if clip_norm is not None and any(member._brought_by.replaces_parameters for member in members):
        raise ValueError(
            f"clip_norm={clip_norm!r}: the framework keeps gradients of its own, and clips them itself. Leave clip_norm out, and "
            'set "gradient_clipping" in the DeepSpeed configuration, which clips by the same norm.'
        )
