"""Arithmetic that methods share: sums, in-place operations, and the temporaries of both."""

import threading
from collections.abc import Mapping

import torch
from torch import Tensor

from .base import Options, Scalars

LIMIT = 1 << 18  # elements of temporaries that are kept: fresh memory costs a page fault every 4 KiB


class _Pool(threading.local):
    """One thread's temporaries: two threads may step two optimizers at once."""

    def __init__(self) -> None:
        self.kept: dict[tuple[str, torch.dtype], Tensor] = {}


_pool = _Pool()


def scratch(use: str, like: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """Memory of like's shape, with anything in it. Two of one `use` are the same memory: the second spoils the first."""
    dtype = dtype or like.dtype
    plain = type(like).__torch_dispatch__ is Tensor.__torch_dispatch__  # else its operations want one like itself
    if not plain or like.device.type != "cpu" or like.numel() > LIMIT:
        return torch.empty_like(like, dtype=dtype)
    kept = _pool.kept.get((use, dtype))
    if kept is None or kept.numel() < like.numel():
        kept = _pool.kept[use, dtype] = torch.empty(like.numel(), dtype=dtype, device="cpu")
    flat = kept[: like.numel()]
    return flat if like.dim() == 1 else flat.view(like.shape)


def total(t: Tensor) -> Tensor:
    """Sum of all elements as a 0-dim float64 tensor.

    Accumulated in float64: float32 accumulation over 5e7 elements is off by percents, and float64 partials make the
    parameters independent of how the tensors are sharded.
    """
    if t.device.type != "cpu" or t.dtype is torch.float64:
        return torch.sum(t, dtype=torch.float64)
    return scratch("double", t, torch.float64).copy_(t).sum()


def total_abs(t: Tensor) -> Tensor:
    """Σ|t|, as `total`."""
    return total(torch.abs(t, out=scratch("product", t)))


def dot(a: Tensor, b: Tensor, over: Tensor | None = None) -> Tensor:
    """Σ a·b, or Σ a·b/over, as `total`: the products are rounded to the tensors' dtype, the sum is not."""
    product = torch.mul(a, b, out=scratch("product", a))
    return total(product if over is None else product.div_(over))


def dot_difference(g: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Σ g·(a - b), as `dot`."""
    return total(torch.sub(a, b, out=scratch("product", a)).mul_(g))


def root(v: Tensor, eps: Tensor | float) -> Tensor:
    """√v + eps, in memory that the next call takes again."""
    return torch.sqrt(v, out=scratch("root", v)).add_(eps)


# Coefficients are python numbers where the scalars live on the CPU (reading them costs nothing there, and torch then needs no
# temporary), and 0-dim tensors elsewhere (reading them would make the host wait for the device).


def add_(t: Tensor, a: Tensor, c: Tensor | float) -> Tensor:
    """t + c·a, in place."""
    return t.add_(a * c) if isinstance(c, Tensor) else t.add_(a, alpha=c)


def add_product_(t: Tensor, a: Tensor, b: Tensor, c: Tensor | float) -> Tensor:
    """t + c·a·b, in place."""
    return t.add_(a * b * c) if isinstance(c, Tensor) else t.addcmul_(a, b, value=c)


def add_ratio_(t: Tensor, a: Tensor, b: Tensor, c: Tensor | float) -> Tensor:
    """t + c·a/b, in place."""
    return t.add_((a * c).div_(b)) if isinstance(c, Tensor) else t.addcdiv_(a, b, value=c)


def approach_(t: Tensor, a: Tensor, c: Tensor | float) -> Tensor:
    """t + c·(a - t), in place."""
    return t.add_((a - t) * c) if isinstance(c, Tensor) else t.lerp_(a, c)


def bias_correction(options: Options, k: Tensor) -> Tensor | float:
    """sqrt(1 - b2^(k+1)) / (1 - b1^(k+1)), Adam's correction; 1.0 when the group has it off. k: 0-dim float64."""
    if not options.get("use_bias_correction", False):
        return 1.0
    beta1, beta2 = options["betas"][:2]
    correction: Tensor = torch.sqrt(1 - beta2 ** (k + 1)) / (1 - beta1 ** (k + 1))
    return correction


def remaining(options: Options, updates: Tensor) -> Tensor | float:
    """Linear decay: max(0, 1 - updates/total_steps), with the steps before this one; 1.0 without total_steps."""
    total = options.get("total_steps")
    if total is None:
        return 1.0
    left: Tensor = (1 - updates / total).clamp_min(0.0)
    return left


def grown(scalars: Scalars, d_hat: Tensor, constants: Mapping[str, Tensor]) -> Tensor:
    """max(d, min(d_hat, d·growth_rate)): d never falls, and grows at most by its rate a step."""
    d = scalars["d"]
    return torch.maximum(d, torch.minimum(d_hat, d * constants["growth_rate"]))
