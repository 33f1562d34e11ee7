"""Where do plain tensors live? Whole on every rank: one process, DDP, ignored and frozen parameters."""

from collections.abc import Sequence

from torch import Tensor

from .dtensor_type import is_dtensor
from .shard import Placement


def place(params: Sequence[Tensor]) -> list[Placement | None]:
    """Every parameter that no other adapter took. That the ranks really hold equal values is checked later."""
    return [
        Placement(
            signature=f"plain{tuple(p.shape)}{p.dtype}", shards=1, piece="all", numel=p.numel(), gradient=_gradient
        )
        for p in params
    ]


def _gradient(p: Tensor) -> Tensor | None:
    grad = p.grad
    if grad is None or type(grad) is Tensor or not is_dtensor(grad):
        return grad
    return grad.full_tensor()
