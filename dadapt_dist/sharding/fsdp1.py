"""Places FSDP1 parameters: flat parameters, and the views of them that use_orig_params leaves."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .framework import FrameworkAdapter
from .live_objects import ATTACH, is_heap_frozen, living
from .shard import LocalShard


class FSDP1Adapter(FrameworkAdapter):
    """Reads the handle of every parameter that FSDP1 has flattened."""

    name = "fsdp1"

    def place(self, params: Sequence[Tensor]) -> list[LocalShard | None]:
        """As the base class; raises ValueError for a parameter whose handle cannot be found."""
        if not any(hasattr(p, "_fsdp_flattened") for p in params):
            return [None] * len(params)
        owners = _owners()
        return [_place(p, owners) if hasattr(p, "_fsdp_flattened") else None for p in params]

    def refuse(self, params: Sequence[Tensor]) -> None:
        """Raise ValueError for FSDP1 parameters whose optimizer steps inside the backward pass.

        FSDP1 then calls the optimizers of the shards that a rank holds, and no others: ranks would wait for each other for ever.
        """
        flattened = [p for p in params if hasattr(p, "_fsdp_flattened")]
        inside = torch._C._current_graph_task_id() != -1
        if any(inside or getattr(p, "_in_backward_optimizers", None) for p in flattened):
            raise ValueError(
                "an optimizer of FSDP1 parameters steps inside the backward pass. There FSDP1 calls only the optimizers of "
                "pieces that a rank holds, and the sums of d need all ranks. Wrap the model with FSDP2 (fully_shard), where that "
                "works, or call step() after backward()."
            )

    def forget_copies(self, params: Sequence[Tensor]) -> None:
        """Free the gathered flat parameters that a forward pass without a backward has left, and that the next would use."""
        flattened = [p for p in params if hasattr(p, "_fsdp_flattened")]
        owners = _owners() if flattened else {}
        handles = {id(owners[id(p)][0]): owners[id(p)][0] for p in flattened if id(p) in owners}
        for handle in handles.values():
            if handle.uses_sharded_strategy and not handle.needs_unshard():
                handle._free_unsharded_flat_param()

    def parts_of(self, thing: Any) -> Iterator[Any]:
        """The handles of a module's flat parameters."""
        modules = thing.modules() if isinstance(thing, nn.Module) else ()
        return (handle for module in modules if (handle := getattr(module, "_handle", None)) is not None)


def _owners() -> dict[int, tuple[Any, int | None]]:
    """id(parameter) -> its FlatParamHandle, and its place in the flat parameter (None for the flat parameter itself).

    A parameter does not name its handle, only its module does, and the optimizer is given no module. So the live handles
    are looked up among all objects, once, when parameters are placed.
    """
    from torch.distributed.fsdp._flat_param import FlatParamHandle

    owners: dict[int, tuple[Any, int | None]] = {}
    for handle in living(FlatParamHandle):
        flat = handle.flat_param
        owners[id(flat)] = (handle, None)
        for index, view in enumerate(flat._params or []):
            owners[id(view)] = (handle, index)
    return owners


def _place(p: Tensor, owners: dict[int, tuple[Any, int | None]]) -> LocalShard:
    if id(p) not in owners:
        raise ValueError(
            f"parameter of shape {tuple(p.shape)} is marked as flattened by FSDP1, but no live FSDP1 module owns it. "
            + (f"gc.freeze() hides objects: {ATTACH.format('model')}. Else build" if is_heap_frozen() else "Build")
            + " the optimizer from model.parameters() after wrapping the model, and keep the model alive."
        )
    handle, index = owners[id(p)]
    flat = handle.flat_param
    sharded = handle.uses_sharded_strategy
    shards = handle.process_group.size() if sharded else 1
    piece = f"{handle.rank if sharded else 0}"
    if index is None:
        names = ",".join(flat._fqns)
        numel = flat._sharded_size.numel() * shards  # with the padding, which holds zeros and adds nothing
        # Entries of several tensors follow each other, so no global index belongs to a local one.
        return LocalShard(
            tensor_key=f"fsdp1flat{names}",
            num_shards=shards,
            shard_id=piece,
            global_numel=numel,
            global_offset=None,
            packed=tuple(
                (name, info.offset_in_shard or 0, (info.offset_in_shard or 0) + (info.numel_in_shard or 0))
                for name, info in zip(flat._fqns, flat._shard_param_infos, strict=True)
            ),
        )
    info = flat._shard_param_infos[index]
    return LocalShard(
        tensor_key=f"fsdp1{flat._fqns[index]}{tuple(flat._shapes[index])}",
        num_shards=shards,
        shard_id=piece,
        global_numel=flat._numels[index],
        global_offset=(info.intra_param_start_idx or 0) if info.in_shard else 0,
    )
