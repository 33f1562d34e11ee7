"""Find the DistributedDataParallel modules that hold our parameters, and the `Join` contexts that they are in."""

from collections.abc import Iterable, Iterator
from typing import Any

from torch import Tensor
from torch.distributed.algorithms.join import Join
from torch.nn.parallel import DistributedDataParallel

from .live_objects import living, warn_if_hidden


def modules(params: Iterable[Tensor]) -> list[DistributedDataParallel]:
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
