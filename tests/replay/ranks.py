"""Cases on two and four gloo ranks: every layout of torch with every method, joins, overflows and sharded checkpoints."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor, nn
from torch.distributed.algorithms.join import Join
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, ShardingStrategy, fully_shard
from torch.distributed.tensor import Replicate, Shard
from torch.distributed.tensor.debug import CommDebugMode
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    PrepareModuleInput,
    PrepareModuleOutput,
    RowwiseParallel,
    SequenceParallel,
    parallelize_module,
)
from torch.nn.parallel import DistributedDataParallel

import dadapt_dist as dd

from .single import Case
from .trace import METHODS, Trace, local

STEPS = 5
OPTIONS: dict[str, dict[str, Any]] = {
    "prodigy": {"weight_decay": 0.05, "use_bias_correction": True},
    "dadapt_adam": {"weight_decay": 0.05, "decouple": True},
    "dadapt_sgd": {"momentum": 0.9},
    "dadapt_adagrad": {"momentum": 0.5},
    "dadapt_adan": {},
    "dadapt_lion": {"weight_decay": 0.05},
}


class Block(nn.Module):
    """What tensor parallelism cuts."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.up, self.down = nn.LayerNorm(8), nn.Linear(8, 10), nn.Linear(10, 8)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(torch.tanh(self.up(self.norm(x))))


class Small(nn.Module):
    """Rows that no number of ranks divides, and fewer rows than ranks."""

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.inp, self.block, self.head = nn.Linear(6, 8), Block(), nn.Linear(8, 3)
        self.to(dtype)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.block(self.inp(x)))


@dataclass
class Job:
    """A model under a layout, and this rank's share of the batch. averaged: the group over which gradients are averaged."""

    model: nn.Module
    rank: int = 0
    size: int = 1
    dtype: torch.dtype = torch.float32
    averaged: Any = None

    def backward(self, step: int) -> None:
        generator = torch.Generator().manual_seed(1000 + step)
        x = torch.randn(8, 4, 6, generator=generator, dtype=torch.float64)
        y = torch.randn(8, 4, 3, generator=generator, dtype=torch.float64) + x[..., :3]
        x, y = (t.to(self.dtype).chunk(self.size)[self.rank] for t in (x, y))
        ((self.model(x) - y) ** 2).mean().backward()
        for p in self.model.parameters() if self.averaged is not None else ():
            grad = local(p.grad)  # type: ignore[arg-type]
            dist.all_reduce(grad, group=self.averaged)
            grad.div_(dist.get_world_size(self.averaged))

    def optimizer(self, method: str, named: bool = False, **options: Any) -> Any:
        params = self.model.named_parameters() if named else self.model.parameters()
        return METHODS[method](params, **{"d0": 1e-2, **OPTIONS[method], **options})


@cache
def mesh(*names: str) -> DeviceMesh:
    """One mesh for all cases: each opens sockets and threads that stay."""
    size = dist.get_world_size()
    return init_device_mesh("cpu", (size,) if len(names) == 1 else (2, size // 2), mesh_dim_names=names)


def ranks() -> tuple[int, int]:
    return dist.get_rank(), dist.get_world_size()


def sharded(model: Small, **options: Any) -> Small:
    fully_shard(model.block, **options)
    return fully_shard(model, **options)


def ddp(dtype: torch.dtype = torch.float32) -> Job:
    return Job(DistributedDataParallel(Small(dtype)), *ranks(), dtype)


def fsdp1(strategy: str = "FULL_SHARD", *, orig: bool = False, dtype: torch.dtype = torch.float32) -> Job:
    model = Small(dtype)
    where = mesh("replicate", "shard") if strategy == "HYBRID_SHARD" else None
    options = dict(
        sharding_strategy=ShardingStrategy[strategy],
        use_orig_params=orig,
        device_mesh=where,
        device_id=torch.device("cpu"),
    )
    model.block = FullyShardedDataParallel(model.block, **options)  # type: ignore[assignment]
    return Job(FullyShardedDataParallel(model, **options), *ranks(), dtype)


def fsdp2(dtype: torch.dtype = torch.float32) -> Job:
    return Job(sharded(Small(dtype), mesh=mesh("all")), *ranks(), dtype)


def hsdp() -> Job:
    return Job(sharded(Small(), mesh=mesh("replicate", "shard")), *ranks())


def ignored() -> Job:
    """The head stays whole on every rank, beside sharded parameters."""
    model = Small()
    fully_shard(model.block, mesh=mesh("all"))
    head = set(model.head.parameters())
    fully_shard(model, mesh=mesh("all"), ignored_params=head)
    for p in head:
        p.register_post_accumulate_grad_hook(_average)
    return Job(model, *ranks())


def _average(p: Tensor) -> None:
    dist.all_reduce(p.grad)
    p.grad.div_(dist.get_world_size())  # type: ignore[union-attr]


def parallel(model: Small, where: DeviceMesh) -> Small:
    plan = {
        "norm": SequenceParallel(sequence_dim=1),
        "up": ColwiseParallel(input_layouts=Shard(1)),
        "down": RowwiseParallel(output_layouts=Shard(1), use_local_output=False),
    }
    parallelize_module(model.block, where, plan)  # type: ignore[arg-type]
    into = PrepareModuleInput(input_layouts=(Replicate(),), desired_input_layouts=(Shard(1),), use_local_output=False)
    parallelize_module(model.block, where, into)
    out = PrepareModuleOutput(output_layouts=Shard(1), desired_output_layouts=Replicate())
    parallelize_module(model.block, where, out)
    return model


def tp() -> Job:
    return Job(parallel(Small(), mesh("all")))


def fsdp2_tp() -> Job:
    where = mesh("dp", "tp")
    model = sharded(parallel(Small(), where["tp"]), mesh=where["dp"])
    return Job(model, where["dp"].get_local_rank(), where["dp"].size())


def ddp_tp() -> Job:
    where = mesh("dp", "tp")
    data = where["dp"]
    return Job(parallel(Small(), where["tp"]), data.get_local_rank(), data.size(), averaged=data.get_group())


LAYOUTS: dict[int, dict[str, Callable[[], Job]]] = {
    2: {
        "ddp": ddp,
        "ddp f64": lambda: ddp(torch.float64),
        "ddp bf16": lambda: ddp(torch.bfloat16),
        "fsdp1 flat": fsdp1,
        "fsdp1 orig params": lambda: fsdp1(orig=True),
        "fsdp1 SHARD_GRAD_OP": lambda: fsdp1("SHARD_GRAD_OP", orig=True),
        "fsdp2": fsdp2,
        "fsdp2 f64": lambda: fsdp2(torch.float64),
        "fsdp2 bf16": lambda: fsdp2(torch.bfloat16),
        "fsdp2 ignored": ignored,
        "tp": tp,
    },
    4: {
        "ddp": ddp,
        "fsdp1 flat": fsdp1,
        "fsdp1 orig params": lambda: fsdp1(orig=True),
        "fsdp1 HYBRID_SHARD": lambda: fsdp1("HYBRID_SHARD", orig=True),
        "fsdp2": fsdp2,
        "hsdp": hsdp,
        "fsdp2 x tp": fsdp2_tp,
        "ddp x tp": ddp_tp,
    },
}
MORE: dict[str, dict[str, Any]] = {
    "sync step": {"sync": "step"},
    "skip": {"nonfinite": "skip"},
    "statistics bf16": {"statistics_dtype": torch.bfloat16},
    "freeze": {"freeze_after": 3},
    "sliced": {"slice_p": 3},
}


def steps(trace: Trace, job: Job, optimizer: Any, first: int = 0, number: int = STEPS, *, read: bool = True) -> None:
    for step in range(first, first + number):
        optimizer.zero_grad()
        job.backward(step)
        optimizer.step()
        trace.step(job.model.parameters(), optimizer if read else None)


def train(trace: Trace, layout: str, method: str, named: bool, read: bool = True, **options: Any) -> None:
    job = LAYOUTS[dist.get_world_size()][layout]()
    optimizer = job.optimizer(method, named, **options)
    steps(trace, job, optimizer, read=read)
    trace.end(job.model.parameters(), optimizer)


def counted(trace: Trace, layout: str, method: str, **options: Any) -> None:
    """The collectives of each step() by kind, the first step apart from those that follow."""
    job = LAYOUTS[dist.get_world_size()][layout]()
    optimizer = job.optimizer(method, **options)
    for step in range(4):
        optimizer.zero_grad()
        job.backward(step)
        with CommDebugMode() as counting:
            optimizer.step()
        counts = {str(op): number for op, number in counting.get_comm_counts().items()}
        trace.rest.setdefault("collectives", []).append(dict(sorted(counts.items())))
        trace.step(job.model.parameters())
    trace.end(job.model.parameters(), optimizer)


def damaged(trace: Trace, layout: str, method: str, nonfinite: str | None, scaler_on: bool) -> None:
    """The last rank meets an infinity in one step and has no gradients in another."""
    job = LAYOUTS[dist.get_world_size()][layout]()
    optimizer = job.optimizer(method, nonfinite=nonfinite)
    scaler = torch.amp.GradScaler("cpu", init_scale=1.0, growth_interval=100, enabled=scaler_on)
    last = dist.get_rank() == dist.get_world_size() - 1
    scaler.scale(torch.zeros(()))
    for step in range(6):
        optimizer.zero_grad()
        job.backward(step)
        if step == 2 and last:
            local(next(p.grad for p in job.model.parameters() if local(p).numel())).fill_(math.inf)  # type: ignore[arg-type]
        if step == 4 and last:
            optimizer.zero_grad()
        if scaler_on and not (step == 4 and last):
            scaler.step(optimizer)
            scaler.update(1.0)
        else:
            optimizer.step()
        trace.step(job.model.parameters(), optimizer)
    trace.end(job.model.parameters(), optimizer)


def halves(trace: Trace, layout: str, method: str) -> None:
    """Two optimizers with one StepSize, two estimates, over the ranks."""
    job = LAYOUTS[dist.get_world_size()][layout]()
    params, step_size = [*job.model.parameters()], dd.StepSize(["a", "b"])
    parts = [[{"params": params[:3], "estimate": "a"}], [{"params": params[3:], "estimate": "b", "lr": 0.5}]]
    both = [METHODS[method](part, d0=1e-2, step_size=step_size) for part in parts]  # type: ignore[call-arg]
    for step in range(STEPS):
        job.model.zero_grad()
        job.backward(step)
        for optimizer in both:
            optimizer.step()
        trace.step(params, step_size)
    trace.end(params, *both)


def joined(trace: Trace, method: str) -> None:
    """Ranks run out of input at different times."""
    job = ddp()
    optimizer = job.optimizer(method)
    for epoch, batches in enumerate(((2, 5, 3, 1), (4, 1, 6, 2))):
        with Join([job.model, optimizer]):  # type: ignore[list-item]
            for step in range(batches[dist.get_rank()]):
                optimizer.zero_grad()
                job.backward(10 * epoch + step)
                optimizer.step()
        trace.step(job.model.parameters(), optimizer)
    trace.end(job.model.parameters(), optimizer)


def packed(job: Job, optimizer: Any) -> dict[str, Any]:
    model, state = get_state_dict(job.model, optimizer)
    return {"model": model, "optimizer": state}


def save(trace: Trace, layout: str, method: str, **options: Any) -> None:
    """Save while the reduce of a step is under way, and go on."""
    job = LAYOUTS[dist.get_world_size()][layout]()
    optimizer = job.optimizer(method, **options)
    steps(trace, job, optimizer, number=4, read=False)
    dcp.save(packed(job, optimizer), checkpoint_id=trace.path(trace.name.replace("/", "_").removeprefix("save_")))
    steps(trace, job, optimizer, first=4, number=4)
    trace.end(job.model.parameters(), optimizer)


def load(trace: Trace, layout: str, folder: str, method: str, **options: Any) -> None:
    """Load, under the same layout or another, and go on."""
    job = LAYOUTS[dist.get_world_size()][layout]()
    optimizer = job.optimizer(method, **options)
    state = packed(job, optimizer)
    dcp.load(state, checkpoint_id=trace.path(folder, load=True))
    set_state_dict(job.model, optimizer, model_state_dict=state["model"], optim_state_dict=state["optimizer"])
    steps(trace, job, optimizer, first=4, number=4)
    trace.end(job.model.parameters(), optimizer)


def cases() -> Iterator[tuple[str, Case]]:
    size = dist.get_world_size()
    for layout in LAYOUTS[size]:
        for method in METHODS:
            yield f"{layout}/{method}", partial(train, layout=layout, method=method, named=False)
            if layout in ("ddp", "fsdp2", "tp", "fsdp2 x tp", "hsdp"):
                yield (
                    f"{layout}/{method}/named, unread",
                    partial(train, layout=layout, method=method, named=True, read=False),
                )
        for method in ("prodigy", "dadapt_sgd"):
            yield f"{layout}/{method}/collectives", partial(counted, layout=layout, method=method)
    yield from _more(size)
    yield from _checkpoints(size)


def _more(size: int) -> Iterator[tuple[str, Case]]:
    for layout in ("ddp", "fsdp2"):
        for name, options in MORE.items():
            for method in ("prodigy",) if name == "sliced" else ("prodigy", "dadapt_sgd", "dadapt_lion"):
                yield f"{layout}/{method}/{name}", partial(train, layout=layout, method=method, named=False, **options)
        yield f"{layout}/collectives skip", partial(counted, layout=layout, method="prodigy", nonfinite="skip")
        for method in METHODS:
            for nonfinite in (None, "hold", "skip"):
                yield (
                    f"{layout}/{method}/overflow {nonfinite}",
                    partial(damaged, layout=layout, method=method, nonfinite=nonfinite, scaler_on=False),
                )
            yield f"{layout}/{method}/two estimates", partial(halves, layout=layout, method=method)
    for method in ("prodigy", "dadapt_sgd", "dadapt_adam"):
        yield f"join/{method}", partial(joined, method=method)


def _checkpoints(size: int) -> Iterator[tuple[str, Case]]:
    kinds: list[tuple[str, dict[str, Any]]] = [(method, {}) for method in METHODS]
    kinds += [("prodigy", {"slice_p": 3}), ("prodigy", {"statistics_dtype": torch.bfloat16})]
    for layout in ("fsdp2", "fsdp1 orig params") if size == 2 else ("hsdp", "fsdp2 x tp"):
        for method, options in kinds:
            if ("tp" in layout and "slice_p" in options) or ("fsdp1" in layout and "statistics_dtype" in options):
                continue  # a slice needs whole rows; FSDP1 saves buffers of one dtype only
            name = f"{size} ranks/{layout}/{method}" + "".join(f" {key}" for key in options)
            folder = name.replace("/", "_")
            yield f"save/{name}", partial(save, layout=layout, method=method, **options)
            yield f"load/{name}", partial(load, layout=layout, folder=folder, method=method, **options)
    if size == 4:
        for method, options in kinds:
            name = f"2 ranks_fsdp2_{method}" + "".join(f" {key}" for key in options)
            yield f"load/4 ranks/of {name}", partial(load, layout="fsdp2", folder=name, method=method, **options)
