"""Check that all ranks of pipeline x data x tensor x expert meshes together count every element once.

Such meshes are simulated: a thread for each rank, DeepSpeed's own topology and expert groups as lists of ranks, and objects
with the attributes that its engines and ZeRO wrappers have. The collectives are exchanges between the threads.
"""

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import dadapt_dist as dd
from dadapt_dist.comm.communicator import ShardLayout
from dadapt_dist.integrations.deepspeed import zero

STEPS, WIDTH, ALIGNMENT = 3, 8, 6
OPTIONS = {"d0": 1e-2, "eps": 1e-3}
ME = threading.local()  # rank of the thread


class Exchange:
    """All-gather between the threads of one simulation."""

    def __init__(self, world: int) -> None:
        self.barrier, self.board = threading.Barrier(world, timeout=30), [None] * world

    def __call__(self, item: Any) -> list[Any]:
        self.board[ME.rank] = item
        self.barrier.wait()
        every = list(self.board)
        self.barrier.wait()
        return every


def on_all_ranks(world: int, fn: Callable[[int], Any]) -> list[Any]:
    """fn(rank) on a thread for each rank; the results in rank order, or the first error."""
    results: list[Any] = [None] * world

    def run(rank: int) -> None:
        ME.rank = rank
        try:
            results[rank] = fn(rank)
        except BaseException as error:
            results[rank] = error

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(world)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    errors = [result for result in results if isinstance(result, BaseException)]
    if errors:
        raise next((e for e in errors if not isinstance(e, threading.BrokenBarrierError)), errors[0])
    return results


@dataclass(frozen=True)
class Mesh:
    """Sizes of the axes; ranks are numbered as DeepSpeed does: pipeline stages outermost, tensor parallelism innermost."""

    pp: int
    dp: int
    tp: int
    ep: int
    mics: bool = False

    @property
    def world(self) -> int:
        return self.pp * self.dp * self.tp

    def at(self, rank: int) -> Any:
        from deepspeed.runtime.pipe.topology import PipeModelDataParallelTopology

        return PipeModelDataParallelTopology(num_pp=self.pp, num_mp=self.tp, num_dp=self.dp).get_coord(rank)

    def data_ranks(self, rank: int) -> list[int]:
        me = self.at(rank)
        return [r for r in range(self.world) if (self.at(r).pipe, self.at(r).model) == (me.pipe, me.model)]

    def expert_ranks(self, rank: int) -> tuple[list[int], list[int]]:
        """The expert-parallel and the expert-data-parallel group of a rank."""
        from deepspeed.utils import groups

        pair = groups._get_expert_parallel_ranks(self.world, self.tp, self.ep, self.pp)
        return tuple(next(group for group in kind if rank in group) for kind in pair)  # type: ignore[return-value]


class Engine(SimpleNamespace):
    """What is read of DeepSpeed's."""


class Mpu(SimpleNamespace):
    """The tensor-parallel unit of a rank."""

    def get_tensor_model_parallel_rank(self) -> int:
        return self.rank

    def get_tensor_model_parallel_world_size(self) -> int:
        return self.size


# ---------------------------------------------------------------- the model


def value(name: str, *shape: int) -> Tensor:
    """Of a whole parameter."""
    seed = sum(ord(c) * (i + 1) for i, c in enumerate(name))
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def gradient(name: str, *shape: int, step: int) -> Tensor:
    """Of a whole parameter; much the same in all steps, so that d grows."""
    return value(f"{name} downhill", *shape) + 0.3 * value(f"{name} in step {step}", *shape)


EXPERTS = 4  # in each stage


def shapes_of(stage: int, last: int) -> dict[str, tuple[int, ...]]:
    """The whole parameters of a pipeline stage; experts one by one."""
    shapes: dict[str, tuple[int, ...]] = {
        f"{stage}.norm": (WIDTH + 1,),
        f"{stage}.cut": (WIDTH, 5),
        f"{stage}.uncut": (3, 5),
    }
    for expert in range(EXPERTS):
        shapes |= {f"{stage}.expert{expert}.weight": (WIDTH, 3), f"{stage}.expert{expert}.bias": (3,)}
    embedding = {"tied_modules.embed.weight": (WIDTH, 4), f"tied_modules.embed.bias of stage {stage}": (5,)}
    if stage == 0:
        return embedding | shapes
    return shapes | embedding if stage == last else shapes


def cut(name: str) -> bool:
    """Does tensor parallelism cut it?"""
    return name.endswith((".cut", ".weight"))


@dataclass
class Holding:
    """A parameter of a rank: its name there, and which elements of which whole parameter it holds."""

    name: str
    param: nn.Parameter
    whole: str
    shape: tuple[int, ...]
    mesh: Mesh
    tp: int

    def gradient(self, step: int) -> Tensor:
        return self.slice(gradient(self.whole, *self.shape, step=step))

    def slice(self, t: Tensor) -> Tensor:
        return (t.chunk(self.mesh.tp)[self.tp] if cut(self.whole) else t).flatten()


def holdings(mesh: Mesh, rank: int) -> list[Holding]:
    """All parameters of a rank, with DeepSpeed's marks."""
    me, made = mesh.at(rank), []
    ranks, _ = mesh.expert_ranks(rank)
    local = EXPERTS // mesh.ep
    for whole, shape in shapes_of(me.pipe, mesh.pp - 1).items():
        name, group = whole.split(" of ")[0], None
        if "expert" in whole:
            number = int(whole.split("expert")[1].split(".")[0])
            if number // local != ranks.index(rank):
                continue
            name, group = whole.replace(f"expert{number}", f"expert{number % local}"), "ep"
        t = value(whole, *shape)
        p = nn.Parameter((t.chunk(mesh.tp)[me.model] if cut(whole) else t).clone())
        if cut(whole):
            p.tensor_model_parallel = True  # type: ignore[attr-defined]
        if group is not None:
            p.allreduce, p.group_name = False, group  # type: ignore[attr-defined]
        made.append(Holding(name, p, whole, shape, mesh, me.model))
    return made


class PipelineModule(nn.Module):
    """What is read of DeepSpeed's."""

    def __init__(self, held: list[Holding], stage: int) -> None:
        super().__init__()
        self.held, self.stage_id = held, stage

    def named_parameters(self, *args: Any, **kwargs: Any) -> Iterator[tuple[str, nn.Parameter]]:
        return ((holding.name, holding.param) for holding in self.held)

    def get_tied_weights_and_groups(self) -> list[tuple[nn.Parameter, None]]:
        return [(holding.param, None) for holding in self.held if holding.name == "tied_modules.embed.weight"]


# ---------------------------------------------------------------- ZeRO


class DeepSpeedZeroOptimizer(SimpleNamespace):
    """Stage 1 or 2: a flat tensor for each group, padded and cut into equal partitions."""


class DeepSpeedZeroOptimizer_Stage3(SimpleNamespace):
    """Stage 3: every parameter is cut by itself; sub-groups of two parameters."""


class MiCS_Optimizer(DeepSpeedZeroOptimizer_Stage3):
    """Stage 3 within pairs of ranks, each pair with a copy."""


Parts = list[tuple[Holding, int, int, int]]  # a holding's elements [first, first + length) stand from start on


def stage1(held: list[Holding], mesh: Mesh, rank: int) -> tuple[Any, list[tuple[nn.Parameter, Parts]]]:
    kinds = [
        ([h for h in held if "expert" not in h.name], mesh.data_ranks(rank)),
        ([h for h in held if "expert" in h.name], mesh.expert_ranks(rank)[1]),
    ]
    flats, parts = [], []
    for some, ranks in kinds:
        total = sum(h.param.numel() for h in some)
        size = -(-total // (ALIGNMENT * len(ranks))) * ALIGNMENT
        begin, position, own = ranks.index(rank) * size, 0, []
        flat = nn.Parameter(torch.full((size,), torch.nan, dtype=torch.float64))
        for h in some:
            first, last = max(begin - position, 0), min(begin + size - position, h.param.numel())
            h.param._hp_mapping = None  # type: ignore[attr-defined]
            if first < last:
                start = position + first - begin
                h.param._hp_mapping = SimpleNamespace(  # type: ignore[attr-defined]
                    hp_fragment_address=SimpleNamespace(start=start, numel=last - first),
                    lp_fragment_address=SimpleNamespace(start=first, numel=last - first),
                    update_lp=None,
                )
                own.append((h, first, start, last - first))
            position += h.param.numel()
        flats.append(flat)
        parts.append((flat, own))
    wrapper = DeepSpeedZeroOptimizer(
        bit16_groups=[[h.param for h in some] for some, _ in kinds],
        single_partition_of_fp32_groups=flats,
        real_dp_process_group=[ranks for _, ranks in kinds],
        parallel_partitioned_bit16_groups=[],
        round_robin_bit16_groups=[],
    )
    return wrapper, parts


def stage3(held: list[Holding], mesh: Mesh, rank: int, mics: bool) -> tuple[Any, list[tuple[nn.Parameter, Parts]]]:
    every = mesh.data_ranks(rank)
    pair = every[every.index(rank) // 2 * 2 :][:2]
    sub_groups, parts = [held[i : i + 2] for i in range(0, len(held), 2)], []
    for some in sub_groups:
        own, start = [], 0
        for h in some:
            ranks = mesh.expert_ranks(rank)[1] if "expert" in h.name else every
            holders = pair if mics else ranks
            size = -(-h.param.numel() // len(holders))
            first = holders.index(rank) * size
            length = min(max(h.param.numel() - first, 0), size)
            vars(h.param).update(
                ds_numel=h.param.numel(), ds_tensor=SimpleNamespace(ds_numel=size), ds_process_group=ranks
            )
            own.append((h, first, start, length))
            start += size
        parts.append((nn.Parameter(torch.full((start,), torch.nan, dtype=torch.float64)), own))
    wrapper = (MiCS_Optimizer if mics else DeepSpeedZeroOptimizer_Stage3)(
        fp16_groups=[[h.param for h in some] for some in sub_groups],
        fp16_partitioned_groups_flat=[flat for flat, _ in parts],
        fp32_partitioned_groups_flat=[flat for flat, _ in parts],
        sub_group_to_group_id=dict.fromkeys(range(len(sub_groups)), 0),
        dp_process_group=pair if mics else every,
        swap_optimizer=False,
    )
    return wrapper, parts


# ---------------------------------------------------------------- training


def train(mesh: Mesh, stage: int, rank: int) -> tuple[list[float], int]:
    """d after every step on one rank, and the elements of other parameters or padding that moved."""
    held = holdings(mesh, rank)
    wrapper, parts = stage3(held, mesh, rank, mesh.mics) if stage == 3 else stage1(held, mesh, rank)
    with torch.no_grad():
        for flat, own in parts:
            for h, first, start, length in own:
                flat[start : start + length] = h.param.flatten()[first : first + length]
    flats = [flat for flat, _ in parts]
    base = dd.Prodigy(flats if stage == 3 else [{"params": [flat]} for flat in flats], **OPTIONS)
    me = mesh.at(rank)
    ME.engine = Engine(
        basic_optimizer=base,
        optimizer=wrapper,
        module=PipelineModule(held, me.pipe),
        mpu=Mpu(rank=me.model, size=mesh.tp),
        zero_optimization_stage=lambda: stage,
    )
    groups, ds = base.param_groups, []
    for step in range(STEPS):
        for flat, own in parts:
            flat.grad = torch.full_like(flat, torch.nan)
            for h, first, start, length in own:
                flat.grad[start : start + length] = h.gradient(step)[first : first + length]
            if stage == 3:
                groups[0]["params"] = [flat]
                base.step()
                groups[0]["params"] = []
            else:
                base.param_groups = [group for group in groups if group["params"][0] is flat]
                base.step()
                base.param_groups = groups
        ds.append(base.d)
    padding = sum(int(flat.isnan().sum()) - flat.numel() + sum(part[3] for part in own) for flat, own in parts)
    return ds, padding


@pytest.fixture
def simulated(monkeypatch: pytest.MonkeyPatch) -> Callable[[Mesh], None]:
    def prepare(mesh: Mesh) -> None:
        from deepspeed import comm
        from deepspeed.utils import groups

        exchange = Exchange(mesh.world)

        def all_reduce(layout: ShardLayout, sums: Tensor) -> Any:
            sums.copy_(torch.stack(exchange(sums.clone())).sum(dim=0))
            return SimpleNamespace(wait=lambda: None, is_completed=lambda: True)

        monkeypatch.setattr(ShardLayout, "world_size", mesh.world)
        monkeypatch.setattr(ShardLayout, "rank", property(lambda layout: ME.rank))
        monkeypatch.setattr(ShardLayout, "reduce_device", lambda layout, home: home)
        monkeypatch.setattr(ShardLayout, "all_reduce", all_reduce)
        monkeypatch.setattr(ShardLayout, "all_gather", lambda layout, row: torch.stack(exchange(row.clone())))
        monkeypatch.setattr(ShardLayout, "all_gather_object", lambda layout, item: exchange(item))
        monkeypatch.setattr(zero, "engines", lambda: [ME.engine])
        monkeypatch.setattr(comm, "is_initialized", lambda: True)
        monkeypatch.setattr(comm, "get_rank", lambda group=None: group.index(ME.rank))
        monkeypatch.setattr(comm, "get_world_size", lambda group=None: len(group))
        monkeypatch.setattr(groups, "_get_expert_parallel_group_dict", lambda: {"ep": None})
        monkeypatch.setattr(groups, "_get_expert_parallel_group", lambda name: mesh.expert_ranks(ME.rank)[0])

    return prepare


def one_process(mesh: Mesh) -> list[float]:
    shapes = {name: shape for stage in range(mesh.pp) for name, shape in shapes_of(stage, mesh.pp - 1).items()}
    params = {name: nn.Parameter(value(name, *shape)) for name, shape in shapes.items()}
    alone, ds = dd.Prodigy(params.values(), **OPTIONS), []
    for step in range(STEPS):
        for name, p in params.items():
            p.grad = gradient(name, *shapes[name], step=step)
        alone.step()
        ds.append(alone.d)
    return ds


@pytest.mark.parametrize(
    ("mesh", "stage"),
    [
        (Mesh(pp=2, dp=4, tp=2, ep=2), 1),
        (Mesh(pp=4, dp=4, tp=2, ep=4), 1),
        (Mesh(pp=2, dp=2, tp=4, ep=1), 1),
        (Mesh(pp=1, dp=8, tp=2, ep=4), 1),
        (Mesh(pp=1, dp=8, tp=2, ep=4), 3),
        (Mesh(pp=1, dp=4, tp=4, ep=2), 3),
        (Mesh(pp=1, dp=4, tp=2, ep=1, mics=True), 3),
    ],
    ids=str,
)
def test_every_element_counts_once(simulated: Callable[[Mesh], None], mesh: Mesh, stage: int) -> None:
    expected = one_process(mesh)
    assert expected[-1] > 1.1 * expected[0]
    simulated(mesh)
    results = on_all_ranks(mesh.world, lambda rank: train(mesh, stage, rank))
    assert all(ds == results[0][0] for ds, _ in results)
    assert results[0][0] == pytest.approx(expected, rel=1e-12)
    assert all(padding == 0 for _, padding in results)
