"""Places plain tensors, whole on every rank (one process, DDP, ignored and frozen parameters), and finds what DDP holds."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from torch import Tensor, nn
from torch.distributed.algorithms.join import Join
from torch.nn.parallel import DistributedDataParallel

from .dtensor import is_dtensor
from .framework import FrameworkAdapter
from .live_objects import living, warn_if_hidden
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
        modules = thing.modules() if isinstance(thing, nn.Module) else ()
        return (module for module in modules if isinstance(module, DistributedDataParallel))


def _gradient(p: Tensor) -> Tensor | None:
    grad = p.grad
    if grad is None or type(grad) is Tensor or not is_dtensor(grad):
        return grad
    return grad.full_tensor()


def ddp_modules(params: Iterable[Tensor]) -> list[DistributedDataParallel]:
    """The live modules that average the gradients of some of these parameters. A search among all objects."""
    wanted = {id(p) for p in params}
    found = [ddp for ddp in living(DistributedDataParallel) if any(id(p) in wanted for p in _parameters(ddp))]
    if not found and wanted:
        warn_if_hidden("model")
    return found


def _parameters(ddp: DistributedDataParallel) -> list[Tensor]:
    """Those of the module; none of one that is still being built."""
    module = ddp.__dict__.get("_modules", {}).get("module")
    return [] if module is None else list(module.parameters())


def joins_of(joinable: Any) -> Iterator[Any]:
    """The live `Join` contexts that this object takes part in."""
    return (join for join in living(Join) if any(other is joinable for other in join.__dict__.get("_joinables", ())))
