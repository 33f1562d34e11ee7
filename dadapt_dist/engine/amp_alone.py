"""Refuse a GradScaler that leaves overflowed steps out on one rank alone, before the other ranks wait for that rank.

A scaler that unscales by itself does not call step() where it has found an overflow. That is right where all ranks find the
same: gradients that DDP has averaged, DTensors over all ranks (torch reduces the flag over their mesh), a scaler that asks the
other ranks.
"""

import logging
from collections.abc import Iterator
from typing import Any, Protocol

from torch import Tensor
from torch.amp import GradScaler

from ..comm.communicator import ShardLayout
from ..sharding.dtensor import is_dtensor
from ..sharding.live_objects import living
from ..sharding.registry import resolve
from ..sharding.replicated import ddp_modules
from . import amp

logger = logging.getLogger(__name__)

DECIDES = ("step", "unscale_", "_unscale_grads_", "_maybe_opt_step")  # where a subclass makes the ranks agree
CURE = (
    "Give scaler.step() and scaler.unscale_() the optimizer itself, or let the wrapper pass on the attribute "
    "_step_supports_amp_scaling; with FSDP1 use torch.distributed.fsdp.sharded_grad_scaler.ShardedGradScaler. Where the ranks "
    'are made to agree, set optimizer.amp_scaling = "external" on all of them.'
)


class HasLayout(Protocol):
    """A StepSize to those who ask which ranks share it."""

    _layout: ShardLayout


class Scaled(Protocol):
    """An optimizer whose gradients a scaler has unscaled."""

    amp_scaling: amp.AmpScaling | None

    @property
    def step_size(self) -> HasLayout:
        """The StepSize that it shares."""

    def _all_params(self) -> Iterator[tuple[dict[str, Any], Tensor]]:
        """Every parameter with its group."""


def check(optimizer: Scaled) -> None:
    """Look at the scaler in whose step this one is, if any has told nothing. Looks among all objects; no collective.

    Logs a warning where it cannot be told whether all ranks find the same.

    Raises:
        RuntimeError: They do not.
    """
    layout = optimizer.step_size._layout
    if layout.world_size == 1 or optimizer.amp_scaling == "external":
        return
    handles = (_unscaled_alone(scaler, optimizer) for scaler in living(GradScaler))
    handle = next((handle for handle in handles if handle is not None), None)
    agree = handle is None or _find_the_same(optimizer, layout)
    if agree:
        return
    what = "this optimizer" if handle is optimizer else f"the {type(handle).__name__} around this optimizer"
    text = f"a GradScaler was given {what}, unscales by itself, and leaves out a step that overflows on this rank alone"
    if agree is False:
        raise RuntimeError(f"{text}: the other ranks would wait for it for ever. {CURE}")
    if layout.rank == 0:
        logger.warning("%s: right only where all ranks have the same gradients. %s", text, CURE)


def _unscaled_alone(scaler: Any, optimizer: Scaled) -> Any:
    """What stands for the optimizer in a scaler that has unscaled its gradients by torch's own code, else None."""
    if any(getattr(type(scaler), name) is not getattr(GradScaler, name) for name in DECIDES):
        return None
    handle = amp.handle_of(scaler, optimizer)
    unscaled = handle is not None and scaler._per_optimizer_states[id(handle)]["stage"].name == "UNSCALED"
    return handle if unscaled else None


def _find_the_same(optimizer: Scaled, layout: ShardLayout) -> bool | None:
    """Whether the scalers of all ranks find the same in their gradients; None where this rank alone cannot tell."""
    params = [p for _, p in optimizer._all_params() if p.requires_grad]
    distributed = [p for p in params if is_dtensor(p)]
    if params and len(distributed) == len(params):
        cuts = {(p.device_mesh, tuple(place.is_replicate() for place in p.placements)) for p in distributed}
        return len(cuts) == 1 and cuts.pop()[0].size() == layout.world_size
    copies = [] if layout.copies is None else [layout.copies(p) for p in params]
    if any(count not in (None, layout.world_size) for count in copies):
        return False
    if any(shard.num_shards > 1 for shards in resolve(params) for shard in shards):
        return False
    averaged = {id(p) for module in ddp_modules(params) for p in module.parameters()}
    return True if all(id(p) in averaged for p in params) else None
