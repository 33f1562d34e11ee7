"""Temporaries of a step, on the CPU in memory that is kept: fresh memory costs a page fault every 4 KiB."""

import threading

import torch
from torch import Tensor

LIMIT = 1 << 18  # elements; larger ones are allocated


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
        kept = _pool.kept[use, dtype] = torch.empty(like.numel(), dtype=dtype)
    flat = kept[: like.numel()]
    return flat if like.dim() == 1 else flat.view(like.shape)
