"""Places plain tensors, whole on every rank: one process, DDP, ignored and frozen parameters."""

from collections.abc import Iterator, Sequence
from typing import Any

from torch import Tensor, nn

from .dtensor_type import is_dtensor
from .framework import FrameworkAdapter
from .shard import LocalShard


class ReplicatedAdapter(FrameworkAdapter):
    """Takes every parameter that no other adapter took. That the ranks really hold equal values is checked later."""

    name = "replicated"

    def place(self, params: Sequence[Tensor]) -> list[LocalShard | None]:
        """As the base class."""
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

    def parts_of(self, thing: Any) -> Iterator[Any]:
        """The DistributedDataParallel modules of a model."""
        from torch.nn.parallel import DistributedDataParallel

        modules = thing.modules() if isinstance(thing, nn.Module) else ()
        return (module for module in modules if isinstance(module, DistributedDataParallel))


def _gradient(p: Tensor) -> Tensor | None:
    grad = p.grad
    if grad is None or type(grad) is Tensor or not is_dtensor(grad):
        return grad
    return grad.full_tensor()
