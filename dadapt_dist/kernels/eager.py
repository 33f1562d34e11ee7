"""How does one step run on a tensor of any device and dtype? One pass of plain torch operations."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..methods.base import Buffers, Coefficients, Method


@dataclass(frozen=True, kw_only=True)
class Work:
    """One parameter's share of a step: plain local tensors of this rank.

    decay: coupled weight decay, added to the gradient as decay·x. scale: a 0-dim tensor that the gradient is divided by
    (loss scaling), or None. cut: which entries the sliced buffers keep, or None for all.
    """

    x: Tensor
    g: Tensor
    buf: Buffers
    decay: float = 0.0
    maximize: bool = False
    scale: Tensor | None = None
    cut: slice | None = None


def advance(method: Method, work: Work, c: Coefficients) -> list[Tensor]:
    """Advance the parameter and its buffers in place; return its partial sums and its count of non-finite elements.

    Elements whose gradient is not finite take part as if it were zero, so that they poison neither the buffers nor x.
    """
    dtype = state_dtype(work)
    x = work.x if work.x.dtype == dtype else work.x.to(dtype)
    if work.g.is_sparse:
        g, bad = _sparse_gradient(work, dtype)
        sums = method.update_sparse(x, g, work.buf, c)
    else:
        g, bad = clean_gradient(work, x)
        sums = method.update(x, g, work.buf, c, work.cut)
    if x is not work.x:
        work.x.copy_(x)  # the one rounding to a low-precision parameter's dtype
    return [*sums, bad]


def rehearse(method: Method, work: Work, c: Coefficients) -> list[Tensor]:
    """What `advance` would return, leaving parameter and buffers as they are. Copies one parameter's tensors at a time."""
    copies = {name: t.clone() for name, t in work.buf.items()}
    copy = Work(
        x=work.x.clone(), g=work.g, buf=copies, decay=work.decay, maximize=work.maximize, scale=work.scale, cut=work.cut
    )
    return advance(method, copy, c)


def state_dtype(work: Work) -> torch.dtype:
    """The dtype of the mathematics: that of the buffers."""
    return next(iter(work.buf.values())).dtype if work.buf else work.x.dtype


def clean_gradient(work: Work, x: Tensor) -> tuple[Tensor, Tensor]:
    """The gradient that the method sees, in x's dtype, and how many of its elements were not finite (0-dim float64)."""
    g = work.g if work.scale is None else work.g.to(x.dtype) / work.scale  # in float16 the division would underflow
    bad = torch.zeros((), dtype=torch.float64, device=g.device)
    if not _surely_finite(g):
        finite = torch.isfinite(g)
        bad = (~finite).sum(dtype=torch.float64)
        g = torch.where(finite, g, 0)
    g = g.to(x.dtype)
    if work.maximize:
        g = g.neg()
    return (g.add(x, alpha=work.decay) if work.decay else g), bad


def _surely_finite(g: Tensor) -> bool:
    """A quick look that spares the full check (five passes) on the CPU, where reading a result makes nobody wait.

    The range of the elements is NaN or infinite when one of them is; when it overflows by itself, the full check decides.
    """
    if g.device.type != "cpu" or g.numel() == 0 or torch.compiler.is_compiling():
        return False
    low, high = torch.aminmax(g)
    return math.isfinite(float(high - low))


def numbers(c: Coefficients) -> Coefficients:
    """Coefficients as python numbers, for tensors on the CPU; exact, since python numbers are float64 too."""
    if torch.compiler.is_compiling():
        return c
    return {name: float(value) if isinstance(value, Tensor) else value for name, value in c.items()}


def _sparse_gradient(work: Work, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    g = work.g.coalesce()
    values = g.values()
    dense = Work(x=values, g=values, buf={}, maximize=work.maximize, scale=work.scale)
    cleaned, bad = clean_gradient(dense, values.to(dtype))
    # The indices were checked when the gradient was made; torch warns unless told so.
    return torch.sparse_coo_tensor(g.indices(), cleaned, g.shape, is_coalesced=True, check_invariants=False), bad
