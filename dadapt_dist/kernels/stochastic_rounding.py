"""Store float32 values in bfloat16 buffers without losing small changes: stochastically, alike in every backend.

An average such as s = 0.9995·s + c·g moves by less than half a unit in bfloat16's last place: rounded to nearest it would
never decay. Rounded up with the probability of the remainder it is right on average.
"""

import torch
from torch import Tensor

WORD = 0xFFFFFFFF


def noise(count: int, origin: int, seed: Tensor | float, device: torch.device) -> Tensor:
    """16 random bits for each of `count` elements, int64: a hash of (seed, origin + i), all arithmetic modulo 2³²."""
    start = (seed.to(torch.int64) if isinstance(seed, Tensor) else int(seed)) * 0x9E3779B9 & WORD
    h = torch.arange(count, dtype=torch.int64, device=device).add_(origin & WORD).bitwise_and_(WORD) ^ start
    h = (h ^ (h >> 16)) * 0x7FEB352D & WORD
    h = (h ^ (h >> 15)) * 0x846CA68B & WORD
    return (h ^ (h >> 16)) & 0xFFFF


def store_stochastic(to: Tensor, value: Tensor, origin: int, seed: Tensor | float) -> None:
    """Round float32 `value` into the bfloat16 tensor `to`, in place; infinities and NaN stay what they are.

    origin: number of the first element; seed: number of the step. Elements count in the order of memory where the tensor
    is dense, so that a channels_last tensor is rounded alike in every backend.
    """
    if to.dtype is not torch.bfloat16:
        to.copy_(value)
        return
    value = value.to(torch.float32)
    bits = value.contiguous().view(-1).view(torch.int32).to(torch.int64)
    rounded = ((bits & WORD) + noise(value.numel(), origin, seed, value.device)) >> 16
    stored = rounded.to(torch.int16).view(torch.bfloat16).view(value.shape)
    to.copy_(torch.where(torch.isfinite(value), stored, value.to(torch.bfloat16)))
