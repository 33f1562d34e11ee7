"""The task of a step on one tensor, as kernels receive it, and what a step does with each tensor of the model apart."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ..methods.base import Buffers


@dataclass(slots=True, kw_only=True, eq=False)
class TensorTask:
    """One tensor's part of a step: plain local tensors of this rank, all of one shape but for sliced buffers.

    Args:
        x: The parameter's local elements.
        g: Their gradient, of the same shape.
        buf: The method's buffers by name.
        weight: 1/replicas, which multiplies the tensor's sums.
        decay: Coupled weight decay, added to the gradient as decay·x.
        maximize: Whether the gradient's sign is reversed.
        scale: 0-dim tensor that the gradient is divided by (loss scaling), or None.
        cut: The entries of the flattened tensor that the sliced buffers keep, or None for all.
        origin: Number that tells this tensor's elements from those of other tensors and ranks, for the noise of stochastic
            rounding: element i draws the noise of (step, origin + i).
        cut_origin: `origin` for the sliced buffers of a block of a tensor; None: the same.
        param: The parameter, to be named in errors.
        runs: (tensor, start, stop) for each tensor of the model that has elements here, one after the other: its number among
            all tensors of the model, and which elements of the flattened x are its. Empty where nobody asks for them.
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
    runs: tuple[tuple[int, int, int], ...] = ()

    @property
    def slice_origin(self) -> int:
        """`origin` of the elements of sliced buffers, which are numbered among themselves."""
        return self.origin if self.cut_origin is None else self.cut_origin

    def math_dtype(self) -> torch.dtype:
        """The dtype of the mathematics: the widest of the buffers', and float32 at least."""
        dtype = torch.float32
        for t in self.buf.values() or (self.x,):
            dtype = torch.promote_types(dtype, t.dtype)
        return dtype


@dataclass(frozen=True, eq=False)
class PerTensor:
    """What a step does with each tensor of the model apart.

    Args:
        factors: float64 [n_tensors], on the device of the tasks, between 0 and 1: what the coefficient `Method.scaled` is
            multiplied by for the elements of each tensor.
        squares: float64 [n_tensors], on the same device: gets, at the tensors that have elements in the tasks, the weighted sum
            of x² after the step, as x is stored.
    """

    factors: Tensor
    squares: Tensor

    def put(self, tensors: Tensor, squares: Tensor, skip: Tensor | None) -> None:
        """Write the squares of some tensors, float64 [n], unless `skip`, a 0-dim bool, says that nothing has moved."""
        kept = squares if skip is None else torch.where(skip.to(squares.device), self.squares[tensors], squares)
        self.squares.index_copy_(0, tensors, kept)

    def put_one(self, tensor: int, square: Tensor | float, skip: Tensor | None) -> None:
        """The same for one tensor by its number; nobody waits, as one would for indices on their way to a device."""
        place = self.squares[tensor]
        if isinstance(square, Tensor):
            place.copy_(square if skip is None else torch.where(skip.to(place.device), place, square))
        else:
            place.fill_(square)  # the host has looked at `skip` before
