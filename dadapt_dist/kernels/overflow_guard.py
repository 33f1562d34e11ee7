"""Leave out of a step the gradient elements that are not finite, and those with which it would overflow.

One element of 1e20 is finite, but its square is not in float32: v would be infinite for good. Such an element acts as if it
were not finite: as 0 in this step, and counted, so that d is held. Which ones these are the method itself says, on copies; a
quick look at the size of the gradient spares that nearly always.
"""

import math

import torch
from torch import Tensor

from ..methods.base import Buffers, Coefficients, Method
from .cpu_c import safe_size
from .tensor_task import TensorTask

HALF = 2.0**-30  # a parameter in float16 is left so much sooner

Number = Tensor | float


def bounded(value: Number, largest: float) -> Number:
    """A coefficient within what the dtype of the mathematics holds: an infinite one would make 0·inf of a gradient of 0."""
    return value.clamp(-largest, largest) if isinstance(value, Tensor) else min(max(value, -largest), largest)


def kept_within(t: Tensor, before: Tensor, largest: float) -> None:
    """Put back what a step has carried beyond what memory can hold, even without a gradient. In place."""
    t.copy_(torch.where(t.abs() <= largest, t, before))


def tamed(
    method: Method, task: TensorTask, x: Tensor, buf: Buffers, c: Coefficients, readable: bool
) -> tuple[Tensor, Number]:
    """The gradient that the method sees, and how many of its elements were left out.

    x, buf: those of the task, in the dtype of the mathematics, which is that of the result. readable: whether the host may read
    values without waiting, which spares the trial of a step with small gradients.
    """
    raw = task.g.to(x.dtype)  # before the division, in which float16 would underflow
    if task.scale is not None:
        raw = raw / task.scale
    g = _decayed(task, raw, x)
    if readable and _is_quiet((g, *method.multiplied(x, buf, c)), c, task.x.dtype):
        return g, 0.0
    wrong = ~torch.isfinite(raw)
    rest = _decayed(task, torch.zeros_like(raw), x)
    g = torch.where(wrong, rest, g)
    for _ in range(2 if task.decay else 1):
        over = ~_fit(method, task, x, g, buf, c)
        g = torch.where(over, torch.where(wrong, 0, rest), g)  # where the decay alone overflows, it is left out too
        wrong |= over
    return g, wrong.sum(dtype=torch.float64)


def usable_gradient(task: TensorTask, dtype: torch.dtype) -> Tensor:
    """The gradient as a step takes it, in this dtype: divided by the scale, with its sign and decay, a tensor of its own.

    Elements that are not finite, or whose square would not be, act as 0 before the decay is added.
    """
    raw = task.g.to(dtype) if task.scale is None else task.g.to(dtype) / task.scale
    raw = torch.where(raw.abs() <= math.sqrt(torch.finfo(dtype).max), raw, 0.0)
    return _decayed(task, raw, task.x.to(dtype))


def _decayed(task: TensorTask, g: Tensor, x: Tensor) -> Tensor:
    if task.maximize:
        g = g.neg()
    return g.add(x, alpha=task.decay) if task.decay else g


def _is_quiet(sizes: tuple[Tensor, ...], c: Coefficients, param: torch.dtype) -> bool:
    """Whether every element is surely small enough: a sum of squares is NaN or large when one is not."""
    safe = safe_size([value for name, value in c.items() if name != "seed" and value is not None], c.get("keep"))
    if safe < 0:
        return False
    safe = safe * HALF if param is torch.float16 else safe
    return all(float(torch.dot(flat, flat)) <= safe * safe for flat in (t.reshape(-1) for t in sizes))


def _fit(method: Method, task: TensorTask, x: Tensor, g: Tensor, buf: Buffers, c: Coefficients) -> Tensor:
    """bool, as x: whether a step with g leaves each element with what memory can hold, and with squares that do not overflow.

    Where x goes on towards a point that it does not reach in one step, that point is asked for.
    """
    new, after = x.clone(), {name: t if name in method.read_only else t.clone() for name, t in buf.items()}
    method.update(new, g, after, {**c, "pull": 1.0} if "pull" in c else c, task.cut)
    fit = new.abs() <= torch.finfo(task.x.dtype).max
    for name, t in after.items():
        if name not in method.read_only:
            _and(fit, t.abs() <= torch.finfo(task.buf[name].dtype).max, task.cut)
    for t in method.squared(g, buf, after, c):
        _and(fit, t.abs() <= math.sqrt(torch.finfo(x.dtype).max), task.cut)
    return fit


def _and(fit: Tensor, other: Tensor, cut: slice | None) -> None:
    """In place; other may be of the sliced entries alone."""
    if other.numel() == fit.numel():
        fit &= other.reshape(fit.shape)
    else:
        whole = torch.ones(fit.numel(), dtype=torch.bool, device=fit.device)
        whole[cut] = other
        fit &= whole.view(fit.shape)
