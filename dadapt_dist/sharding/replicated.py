"""Where do plain tensors live? Whole on every rank: one process, DDP, ignored and frozen parameters."""

from collections.abc import Sequence

from torch import Tensor
from torch.distributed.tensor import DTensor

from .shard import LocalShard


def place(params: Sequence[Tensor]) -> list[LocalShard | None]:
    """Every parameter that no other adapter took. That the ranks really hold equal values is checked later."""
    return [
        LocalShard(
            tensor_key=f"plain{tuple(p.shape)}{p.dtype}",
            num_shards=1,
            shard_id="all",
            global_numel=p.numel(),
            gradient=_gradient,
        )
        for p in params
    ]


def _gradient(p: Tensor) -> Tensor | None:
    grad = p.grad
    return grad.full_tensor() if isinstance(grad, DTensor) else grad
