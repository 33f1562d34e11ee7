"""Train the tiny model under each layout, from the same global batch and the same initial values."""

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import (
    CPUOffloadPolicy,
    FullyShardedDataParallel,
    MixedPrecisionPolicy,
    ShardingStrategy,
    fully_shard,
)
from torch.distributed.pipelining import PipelineStage, ScheduleGPipe
from torch.distributed.tensor import DTensor, Replicate, Shard
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    PrepareModuleInput,
    PrepareModuleOutput,
    RowwiseParallel,
    SequenceParallel,
    parallelize_module,
)
from torch.nn.parallel import DistributedDataParallel

from .models import BATCH, FEATURES, SEQUENCE, Tiny, batch, loss_of, part

CPU = torch.device("cpu")


@dataclass
class Job:
    """A model under a layout: `backward(step)` leaves the global batch's gradients in its parameters."""

    model: nn.Module
    dp_rank: int = 0
    dp_size: int = 1
    depth: int = 1
    dtype: torch.dtype = torch.float64
    after_backward: Callable[[], None] = lambda: None
    pipeline: Any = None
    named: bool = False
    split_optimizer: bool = False
    frozen: frozenset[str] = field(default_factory=frozenset)

    def backward(self, step: int) -> None:
        x, y = batch(step, self.dtype)
        if self.pipeline is not None:
            self.pipeline(x, y)
        else:
            loss_of(self.model, part(x, self.dp_rank, self.dp_size), part(y, self.dp_rank, self.dp_size)).backward()
        self.after_backward()

    def params(self) -> Any:
        return self.model.named_parameters() if self.named else self.model.parameters()

    def full(self) -> dict[str, Tensor]:
        """Whole parameters by their names in `Tiny`, on every rank."""
        is_fsdp1 = isinstance(self.model, FullyShardedDataParallel)
        with FullyShardedDataParallel.summon_full_params(self.model) if is_fsdp1 else nullcontext():
            found = {name: whole(p) for name, p in plain_names(self.model)}
        if self.pipeline is None:
            return found
        gathered: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(gathered, found)
        return {name: t for one in gathered for name, t in one.items()}


def whole(p: Tensor) -> Tensor:
    return (p.full_tensor() if isinstance(p, DTensor) else p).detach().clone()


def plain_names(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    for name, p in model.named_parameters():
        for wrapper in ("_fsdp_wrapped_module.", "module."):
            name = name.replace(wrapper, "")
        yield name, p


def ranks() -> tuple[int, int]:
    return dist.get_rank(), dist.get_world_size()


def mesh_2d(first: str, second: str) -> DeviceMesh:
    return init_device_mesh("cpu", (2, dist.get_world_size() // 2), mesh_dim_names=(first, second))


def ddp() -> Job:
    rank, size = ranks()
    return Job(DistributedDataParallel(Tiny()), rank, size)


def shard2(model: Tiny, **options: Any) -> Tiny:
    for block in model.blocks:
        fully_shard(block, **options)
    return fully_shard(model, **options)


def fsdp2(**options: Any) -> Job:
    return Job(shard2(Tiny(), **options), *ranks())


def fsdp2_offload() -> Job:
    return fsdp2(offload_policy=CPUOffloadPolicy(pin_memory=False))


def fsdp2_ignored() -> Job:
    """The head stays a plain tensor on every rank, beside sharded ones: its gradient is averaged by hand."""
    model, (rank, size) = Tiny(), ranks()
    ignored = set(model.head.parameters())
    for block in model.blocks:
        fully_shard(block)
    fully_shard(model, ignored_params=ignored)
    return Job(model, rank, size, after_backward=lambda: average(ignored, dist.group.WORLD))


def average(params: Any, group: Any) -> None:
    for p in params:
        local = p.grad.to_local() if isinstance(p.grad, DTensor) else p.grad
        dist.all_reduce(local, group=group)
        local.div_(dist.get_world_size(group))


def fsdp2_frozen() -> Job:
    model, (rank, size) = Tiny(), ranks()
    model.blocks[0].norm.requires_grad_(False)
    model.inp.bias.requires_grad_(False)
    return Job(shard2(model), rank, size, frozen=frozenset({"blocks.0.norm.weight", "blocks.0.norm.bias", "inp.bias"}))


def fsdp2_mixed_precision() -> Job:
    policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    return Job(shard2(Tiny(dtype=torch.float32), mp_policy=policy), *ranks(), dtype=torch.float32)


def hsdp() -> Job:
    return fsdp2(mesh=mesh_2d("replicate", "shard"))


def fsdp1(strategy: ShardingStrategy = ShardingStrategy.FULL_SHARD, *, orig: bool = False, mesh: Any = None) -> Job:
    model = Tiny()
    options = dict(sharding_strategy=strategy, use_orig_params=orig, device_mesh=mesh, device_id=CPU)
    model.blocks[0] = FullyShardedDataParallel(model.blocks[0], **options)
    return Job(FullyShardedDataParallel(model, **options), *ranks())


def fsdp1_hybrid(*, orig: bool = False) -> Job:
    return fsdp1(ShardingStrategy.HYBRID_SHARD, orig=orig, mesh=mesh_2d("replicate", "shard"))


def tensor_parallel(model: Tiny, mesh: DeviceMesh) -> Tiny:
    """Sequence-parallel norms, whose gradients are Partial, column- and row-wise linear layers."""
    for block in model.blocks:
        plan = {
            "norm": SequenceParallel(sequence_dim=1),
            "up": ColwiseParallel(input_layouts=Shard(1)),
            "down": RowwiseParallel(output_layouts=Shard(1), use_local_output=False),
        }
        parallelize_module(block, mesh, plan)
        edge = PrepareModuleInput(
            input_layouts=(Replicate(),), desired_input_layouts=(Shard(1),), use_local_output=False
        )
        parallelize_module(block, mesh, edge)
        parallelize_module(
            block, mesh, PrepareModuleOutput(output_layouts=Shard(1), desired_output_layouts=Replicate())
        )
    return model


def tp() -> Job:
    return Job(tensor_parallel(Tiny(), init_device_mesh("cpu", (dist.get_world_size(),))))


def fsdp2_tp() -> Job:
    mesh = mesh_2d("dp", "tp")
    model = shard2(tensor_parallel(Tiny(), mesh["tp"]), mesh=mesh["dp"])
    return Job(model, mesh["dp"].get_local_rank(), mesh["dp"].size())


def ddp_tp() -> Job:
    """DTensors on a sub-mesh, replicated by hand over the other axis."""
    mesh = mesh_2d("dp", "tp")
    model = tensor_parallel(Tiny(), mesh["tp"])
    job = Job(model, mesh["dp"].get_local_rank(), mesh["dp"].size())
    job.after_backward = lambda: average(model.parameters(), mesh["dp"].get_group())
    return job


class Stage(nn.Module):
    """The first or the second half of `Tiny(depth=2)`, under the names it has there."""

    def __init__(self, index: int, model: Tiny) -> None:
        super().__init__()
        if index == 0:
            self.inp = model.inp
        else:
            self.head = model.head
        self.blocks = nn.ModuleDict({str(index): model.blocks[index]})

    def forward(self, x: Tensor) -> Tensor:
        x = self.inp(x) if hasattr(self, "inp") else x
        for block in self.blocks.values():
            x = block(x)
        return self.head(x) if hasattr(self, "head") else x


def pipeline(*, named: bool = True, sharded: bool = False) -> Job:
    """Two stages; with four ranks each stage is trained by two data-parallel ranks."""
    size = dist.get_world_size()
    mesh = init_device_mesh("cpu", (2, size // 2), mesh_dim_names=("pp", "dp"))
    index, (dp_rank, dp_size) = mesh["pp"].get_local_rank(), (mesh["dp"].get_local_rank(), mesh["dp"].size())
    module: nn.Module = Stage(index, Tiny(depth=2))
    if sharded:
        fully_shard(module, mesh=mesh["dp"])
    example = torch.zeros(BATCH // dp_size // 2, SEQUENCE, FEATURES if index == 0 else 8, dtype=torch.float64)
    stage = PipelineStage(module, index, 2, CPU, input_args=(example,), group=mesh["pp"].get_group())
    schedule = ScheduleGPipe(stage, n_microbatches=2, loss_fn=lambda out, y: ((out - y) ** 2).mean())

    def run(x: Tensor, y: Tensor) -> None:
        x, y = part(x, dp_rank, dp_size), part(y, dp_rank, dp_size)
        schedule.step(x) if index == 0 else schedule.step(target=y, losses=[])
        if dp_size > 1 and not sharded:
            average(module.parameters(), mesh["dp"].get_group())

    return Job(module, depth=2, pipeline=run, named=named)


LAYOUTS: dict[str, tuple[int, Callable[[], Job]]] = {
    "ddp": (2, ddp),
    "fsdp1 flat": (2, fsdp1),
    "fsdp1 flat, 4 ranks": (4, fsdp1),
    "fsdp1 orig params": (2, lambda: fsdp1(orig=True)),
    "fsdp1 orig params, 4 ranks": (4, lambda: fsdp1(orig=True)),
    "fsdp1 SHARD_GRAD_OP": (2, lambda: fsdp1(ShardingStrategy.SHARD_GRAD_OP, orig=True)),
    "fsdp1 NO_SHARD": (2, lambda: fsdp1(ShardingStrategy.NO_SHARD, orig=True)),
    "fsdp1 HYBRID_SHARD flat": (4, fsdp1_hybrid),
    "fsdp1 HYBRID_SHARD orig params": (4, lambda: fsdp1_hybrid(orig=True)),
    "fsdp2": (2, fsdp2),
    "fsdp2, 4 ranks": (4, fsdp2),
    "fsdp2 cpu offload": (2, fsdp2_offload),
    "fsdp2 ignored params": (4, fsdp2_ignored),
    "fsdp2 frozen params": (2, fsdp2_frozen),
    "hsdp": (4, hsdp),
    "tp": (2, tp),
    "fsdp2 x tp": (4, fsdp2_tp),
    "ddp x tp": (4, ddp_tp),
    "pipeline": (2, pipeline),
    "pipeline without names": (2, lambda: pipeline(named=False)),
    "pipeline x ddp": (4, pipeline),
    "pipeline x fsdp2": (4, lambda: pipeline(sharded=True)),
}
"""Name -> (ranks, builder)."""
