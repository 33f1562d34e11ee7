"""What does a kernel get? One tensor's share of a step, as plain local tensors."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..methods.base import Buffers


@dataclass(slots=True, kw_only=True, eq=False)
class TensorTask:
    """One tensor's share of a step: plain local tensors of this rank, all of one shape but for sliced buffers.

    weight: 1/copies, which multiplies the tensor's sums. decay: coupled weight decay, added to the gradient as decay·x.
    scale: a 0-dim tensor that the gradient is divided by (loss scaling), or None. cut: which entries of the flattened
    tensor the sliced buffers keep, or None for all. origin: a number that tells this tensor's elements from those of other
    tensors and other ranks, for the noise of stochastic rounding: element i draws the noise of (step, origin + i).
    cut_origin: `origin` for the sliced buffers of a block of a tensor; None: the same.
    param: the parameter, to be named in errors. kernel: the backend that `prepare` chose. memo: what it remembers of the
    tensors.
    """

    x: Tensor
    g: Tensor
    buf: Buffers
    weight: float = 1.0
    decay: float = 0.0
    maximize: bool = False
    scale: Tensor | None = None
    cut: slice | None = None
    origin: int = 0
    cut_origin: int | None = None
    param: Tensor | None = None
    kernel: Any = None
    memo: object = None

    @property
    def slice_origin(self) -> int:
        """`origin` for the elements of sliced buffers, which count among themselves."""
        return self.origin if self.cut_origin is None else self.cut_origin

    def math_dtype(self) -> torch.dtype:
        """The dtype of the mathematics: the widest of the buffers', and float32 at least."""
        dtype = torch.float32
        for t in self.buf.values() or (self.x,):
            dtype = torch.promote_types(dtype, t.dtype)
        return dtype
