"""Shard the demo's model over the ranks: one function for each --sharding, which also divides the batch."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.distributed.fsdp.wrap import ModuleWrapPolicy
from torch.distributed.tensor import Replicate, Shard
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    ParallelStyle,
    PrepareModuleInput,
    RowwiseParallel,
    SequenceParallel,
    parallelize_module,
)
from torch.nn.parallel import DistributedDataParallel

from .model import Block, ByteModel


@dataclass(frozen=True)
class Rows:
    """This rank's part of a batch: every `ranks`-th row from `rank` on. A tensor-parallel group shares its rows."""

    rank: int
    ranks: int

    def of(self, batch: Tensor) -> Tensor:
        return batch[self.rank :: self.ranks]


def spread(model: ByteModel, sharding: str, device: torch.device) -> tuple[nn.Module, Rows]:
    """The model as the ranks hold it, in place, and this rank's rows of a batch. Every rank passes the same weights."""
    return LAYOUTS[sharding](model, device)


def _everyone() -> Rows:
    return Rows(dist.get_rank(), dist.get_world_size())


def _none(model: ByteModel, device: torch.device) -> tuple[nn.Module, Rows]:
    return model, _everyone()


def _ddp(model: ByteModel, device: torch.device) -> tuple[nn.Module, Rows]:
    return DistributedDataParallel(model), _everyone()


def _fsdp1(model: ByteModel, device: torch.device) -> tuple[nn.Module, Rows]:
    whole = FullyShardedDataParallel(
        model,
        auto_wrap_policy=ModuleWrapPolicy({Block}),
        use_orig_params=True,
        device_id=device,
        device_mesh=init_device_mesh(device.type, (dist.get_world_size(),)),  # checkpoints hold DTensors, like FSDP2's
    )
    return whole, _everyone()


def _fsdp2(model: ByteModel, device: torch.device) -> tuple[nn.Module, Rows]:
    return _fully_shard(model, init_device_mesh(device.type, (dist.get_world_size(),))), _everyone()


def _hsdp(model: ByteModel, device: torch.device) -> tuple[nn.Module, Rows]:
    """Two shards each, replicated on the other pairs:   mesh [[0, 1], [2, 3]] = replicate x shard."""
    mesh = init_device_mesh(device.type, (dist.get_world_size() // 2, 2), mesh_dim_names=("replicate", "shard"))
    return _fully_shard(model, mesh), _everyone()


def _tp(model: ByteModel, device: torch.device) -> tuple[nn.Module, Rows]:
    return _tensor_parallel(model, init_device_mesh(device.type, (dist.get_world_size(),))), Rows(0, 1)


def _fsdp2_tp(model: ByteModel, device: torch.device) -> tuple[nn.Module, Rows]:
    """Tensor parallel in pairs, sharded over them:   mesh [[0, 1], [2, 3]] = dp x tp."""
    mesh = init_device_mesh(device.type, (dist.get_world_size() // 2, 2), mesh_dim_names=("dp", "tp"))
    # FSDP2 warns that the logits are a view, which matters only to code that changes them in place.
    warnings.filterwarnings("ignore", message=".*returned a view tensor.*", category=UserWarning)
    _fully_shard(_tensor_parallel(model, mesh["tp"]), mesh["dp"])
    return model, Rows(mesh["dp"].get_local_rank(), mesh["dp"].size())


LAYOUTS: dict[str, Callable[[ByteModel, torch.device], tuple[nn.Module, Rows]]] = {
    "none": _none,
    "ddp": _ddp,
    "fsdp1": _fsdp1,
    "fsdp2": _fsdp2,
    "hsdp": _hsdp,
    "tp": _tp,
    "fsdp2+tp": _fsdp2_tp,
}


def _fully_shard(model: ByteModel, mesh: DeviceMesh) -> ByteModel:
    for block in model.blocks:
        fully_shard(block, mesh=mesh)
    return cast(ByteModel, fully_shard(model, mesh=mesh))


def _tensor_parallel(model: ByteModel, mesh: DeviceMesh) -> ByteModel:
    """Heads and MLP columns are split; between them the activations are split along time, norms included."""
    block: dict[str, ParallelStyle] = {
        "attention_norm": SequenceParallel(),
        "attention": PrepareModuleInput(input_layouts=(Shard(1), None), desired_input_layouts=(Replicate(), None)),
        "attention.wq": ColwiseParallel(),
        "attention.wk": ColwiseParallel(),
        "attention.wv": ColwiseParallel(),
        "attention.wo": RowwiseParallel(output_layouts=Shard(1)),
        "mlp_norm": SequenceParallel(),
        "mlp": PrepareModuleInput(input_layouts=Shard(1), desired_input_layouts=Replicate()),
        "mlp.up": ColwiseParallel(),
        "mlp.down": RowwiseParallel(output_layouts=Shard(1)),
    }
    plan: dict[str, ParallelStyle] = {
        "embedding": RowwiseParallel(input_layouts=Replicate(), output_layouts=Shard(1)),
        "norm": SequenceParallel(),
        "head": ColwiseParallel(input_layouts=Shard(1), output_layouts=Replicate()),
    }
    for index in range(len(model.blocks)):
        plan |= {f"blocks.{index}.{name}": style for name, style in block.items()}
    return cast(ByteModel, parallelize_module(model, mesh, plan))
