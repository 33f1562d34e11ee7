"""How does one step run on a tensor of any device and dtype? One pass of plain torch operations."""

import math
from dataclasses import dataclass, replace

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


BLOCK = 1 << 17  # elements; a block of every tensor of a step and its temporaries fit a core's cache together


def advance(method: Method, work: Work, c: Coefficients) -> list[Tensor]:
    """Advance the parameter and its buffers in place; return its partial sums and its count of non-finite elements.

    Elements whose gradient is not finite take part as if it were zero, so that they poison neither the buffers nor x.
    Large tensors on the CPU are taken block by block: what a block's operations share stays in the cache.
    """
    sums = [_advance(method, block, c) for block in _blocks(work)]
    if len(sums) == 1:
        return sums[0]
    return list(torch.stack([torch.stack(of_block) for of_block in sums]).sum(0).unbind(0))


def _blocks(work: Work) -> list[Work]:
    """The work itself, or views of blocks of it where it is large, on the CPU, and in one run of memory."""
    if work.x.numel() <= BLOCK or work.x.device.type != "cpu" or work.cut is not None or work.g.is_sparse:
        return [work]
    tensors = [work.x, work.g, *work.buf.values()]
    if not all(t.is_contiguous() for t in tensors):
        return [work]
    parts = zip(*(t.view(-1).split(BLOCK) for t in tensors), strict=True)
    return [replace(work, x=x, g=g, buf=dict(zip(work.buf, buffers, strict=True))) for x, g, *buffers in parts]


def _advance(method: Method, work: Work, c: Coefficients) -> list[Tensor]:
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
    return advance(method, replace(work, x=work.x.clone(), buf=copies), c)


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


def readable(device: torch.device) -> bool:
    """Whether the host may read values on this device without waiting for it."""
    return device.type == "cpu" and not torch.compiler.is_compiling()


def _surely_finite(g: Tensor) -> bool:
    """A quick look that spares the full check (five passes) on the CPU, where reading a result makes nobody wait.

    The range of the elements is NaN or infinite when one of them is; when it overflows by itself, the full check decides.
    """
    if g.numel() == 0 or not readable(g.device):
        return False
    low, high = torch.aminmax(g)
    return math.isfinite(float(high - low))


def numbers(c: Coefficients, device: torch.device) -> Coefficients:
    """Coefficients as python numbers where that makes nobody wait; exact, since python numbers are float64 too."""
    if not readable(device):
        return c
    return {name: float(value) if isinstance(value, Tensor) else value for name, value in c.items()}


def _sparse_gradient(work: Work, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    g = work.g.coalesce()
    values = g.values()
    dense = Work(x=values, g=values, buf={}, maximize=work.maximize, scale=work.scale)
    cleaned, bad = clean_gradient(dense, values.to(dtype))
    # The indices were checked when the gradient was made; torch warns unless told so.
    return torch.sparse_coo_tensor(g.indices(), cleaned, g.shape, is_coalesced=True, check_invariants=False), bad
