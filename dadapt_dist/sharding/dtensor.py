"""Places DTensor parameters: FSDP2, HSDP, tensor and expert parallelism, and meshes of several axes.

Nothing imports torch.distributed.tensor, which takes a second: where nobody has, there is no DTensor.
"""

import math
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from .framework import FrameworkAdapter
from .live_objects import is_heap_frozen, living, warn_if_hidden
from .mesh_roles import tensor_parallel_ranks
from .shard import LocalShard

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor
    from typing_extensions import TypeIs


def dtensor_types() -> tuple[type, ...]:
    """The class DTensor as a tuple; an empty one where its module is not loaded."""
    found = getattr(sys.modules.get("torch.distributed.tensor"), "DTensor", None)
    return () if found is None else (found,)


def is_dtensor(t: Any) -> "TypeIs[DTensor]":
    """True for a DTensor; where its module is not loaded, nothing is one."""
    return isinstance(t, dtensor_types())


class DTensorAdapter(FrameworkAdapter):
    """Reads mesh and placements of every DTensor."""

    name = "dtensor"

    def place(self, params: Sequence[Tensor]) -> list[LocalShard | None]:
        """As the base class; raises ValueError for a Partial parameter."""
        return [_place(p) if is_dtensor(p) else None for p in params]

    def tensor_parallel_ranks(self, params: Sequence[Tensor]) -> Sequence[int]:
        """As the base class, from the meshes of the parameters and of FSDP2."""
        own, cls = [p for p in params if is_dtensor(p)], _fsdp2_class()
        modules = living(cls) if own and cls is not None else ()
        return tensor_parallel_ranks(own, modules, knows_all=cls is None or not is_heap_frozen())

    def forget_copies(self, params: Sequence[Tensor]) -> None:
        """Free the gathered parameters of FSDP2 that a forward pass without a backward has left, and that the next would use."""
        wanted = {id(p) for p in params if is_dtensor(p)}
        for module in _fsdp2_modules() if wanted else ():
            if _holds(module, wanted):
                module.reshard()

    def parts_of(self, thing: Any) -> Iterator[Any]:
        """The FSDP2 modules of a model."""
        found = _fsdp2_class()
        modules = thing.modules() if found is not None and isinstance(thing, nn.Module) else ()
        return (module for module in modules if isinstance(module, found))


def _holds(module: Any, wanted: set[int]) -> bool:
    """Return whether an FSDP2 module has sharded one of these parameters; True where it does not tell."""
    state = module._get_fsdp_state()
    if not hasattr(state, "_fsdp_param_group"):
        return True
    group = state._fsdp_param_group
    return group is not None and any(id(one.sharded_param) in wanted for one in group.fsdp_params)


def _fsdp2_class() -> Any:
    """FSDP2's class of modules, where it is loaded: its place is another one since torch 2.6."""
    names = ("torch.distributed.fsdp", "torch.distributed._composable.fsdp")
    return next((cls for n in names if (cls := getattr(sys.modules.get(n), "FSDPModule", None)) is not None), None)


def _fsdp2_modules() -> list[Any]:
    cls = _fsdp2_class()
    found = [] if cls is None else [*living(cls)]
    if cls is not None and not found:
        warn_if_hidden("model")
    return found


def _place(p: "DTensor") -> LocalShard:
    if any(placement.is_partial() for placement in p.placements):
        raise ValueError(
            f"parameter of shape {tuple(p.shape)} has placements {p.placements}: a Partial tensor is an unfinished sum, "
            "not a value to train. Redistribute it to Shard or Replicate before it becomes a parameter."
        )
    mesh = p.device_mesh
    # _StridedShard (FSDP2 over TP) is no subclass of Shard: whatever is not replicated is cut.
    cut = [axis for axis, placement in enumerate(p.placements) if not placement.is_replicate()]
    coordinate = mesh.get_coordinate()
    if coordinate is None:
        raise ValueError(
            f"this rank is not part of the device mesh {mesh} of the parameter of shape {tuple(p.shape)}: give the "
            "optimizer of each rank only the parameters of which it holds a piece."
        )
    names = mesh.mesh_dim_names or range(mesh.ndim)
    return LocalShard(
        tensor_key=f"dtensor{tuple(p.shape)}{p.dtype}{tuple(mesh.shape)}{p.placements}",
        num_shards=math.prod(mesh.size(axis) for axis in cut),
        shard_id=str([(names[axis], coordinate[axis]) for axis in cut]),
        global_numel=p.numel(),
        local=_local,
        gradient=_gradient,
        global_offset=_start(p),
    )


def _local(t: Tensor) -> Tensor:
    """The tensor that a DTensor holds: the same object at each call, where to_local() wraps that of a parameter anew."""
    local: Tensor = getattr(t, "_local_tensor", t)
    return local


def _gradient(p: Tensor) -> Tensor | None:
    """The gradient with the placements of its parameter.

    The two can differ: SequenceParallel norms deliver Partial gradients, row-wise embeddings replicated ones for a sharded
    parameter. Local mathematics on those would be silently wrong, so they are redistributed first. That collective
    belongs to the tensor parallelism, runs over its mesh, and happens on all its ranks alike.
    """
    grad = p.grad
    if not is_dtensor(grad) or not is_dtensor(p):
        return grad
    if grad.placements != p.placements or grad.device_mesh != p.device_mesh:
        grad = grad.redistribute(p.device_mesh, p.placements)
    local = grad.to_local()
    if type(local) is Tensor:
        return local
    from torch.distributed._functional_collectives import AsyncCollectiveTensor

    return local.wait() if isinstance(local, AsyncCollectiveTensor) else local  # the collective may be under way still


def _start(p: "DTensor") -> int | None:
    """First global index of the local piece when it is a run of whole rows, else None."""
    from torch.distributed.tensor import Shard
    from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

    rows = [placement.is_replicate() or (type(placement) is Shard and placement.dim == 0) for placement in p.placements]
    if not all(rows):
        return None
    _, offset = compute_local_shape_and_global_offset(p.shape, p.device_mesh, p.placements)
    return offset[0] * math.prod(p.shape[1:]) if p.dim() else 0
