"""Compare d under DeepSpeed's pipeline, expert, tensor and sequence parallelism with one process."""

import contextlib
import copy
import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

import dadapt_dist as dd
from dadapt_dist.comm.communicator import ShardLayout
from dadapt_dist.methods import METHODS
from dadapt_dist.sharding import registry
from tests.helpers.classes import ALL, BEFORE_D, first_d
from tests.helpers.deepspeed_runs import quiet_deepspeed
from tests.helpers.oracles import ORACLES
from tests.helpers.pool import WorkerPool

STEPS, BATCH, WIDTH, OUT = 8, 8, 7, 3


def options(method: str) -> dict[str, Any]:
    """With so large an eps that gradients of another scale give another d."""
    d = (
        0.1 if method == "dowg" else 1e-2
    )  # DoG's grows with ‖x0‖; smaller, float32 weights do not give ‖x - x0‖ to 1e-6
    known = METHODS[method].options.checks()
    return {**first_d(method, d), **{k: v for k, v in (("weight_decay", 0.01), ("eps", 1e-3)) if k in known}}


OPTIONS = options("prodigy")


# ---------------------------------------------------------------- DeepSpeed on CPUs


def deepspeed() -> Any:
    """The package, quiet, without a compiler, and without the groups of the engines before."""
    deepspeed = quiet_deepspeed()
    from deepspeed.utils import groups

    deepspeed.init_distributed("gloo", auto_mpi_discovery=False)
    groups._release_process_group_references()
    return deepspeed


def config(stage: int, world: int = 1, parts: int = 1, **more: Any) -> dict[str, Any]:
    """A config for the global batch on `world` data-parallel ranks, in `parts` micro-batches."""
    zero = {"stage": stage, "reduce_bucket_size": 10000, "stage3_param_persistence_threshold": 0}
    return {
        "train_micro_batch_size_per_gpu": BATCH // world // parts,
        "gradient_accumulation_steps": parts,
        "gradient_clipping": 0.0,
        "steps_per_print": 10**9,
        "zero_optimization": zero | more.pop("zero", {}),
        **more,
    }


def batch(step: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(100 + step)
    x = torch.randn(BATCH, WIDTH, generator=generator)
    return x, torch.tanh(x[:, :OUT]) + 0.5


def loss_of(y: Tensor, target: Tensor) -> Tensor:
    return ((y - target) ** 2).mean()


@contextlib.contextmanager
def counted() -> Iterator[list[int]]:
    """The number of reduces inside, as a list of one."""
    original, count = ShardLayout.all_reduce, [0]

    def reduce(layout: ShardLayout, sums: Tensor) -> Any:
        count[0] += 1
        return original(layout, sums)

    ShardLayout.all_reduce = reduce  # type: ignore[method-assign]
    try:
        yield count
    finally:
        ShardLayout.all_reduce = original  # type: ignore[method-assign]


Trace = dict[str, Any]


def train(engine: Any, step: Callable[[int], Any]) -> Trace:
    """d after every step, and the reduces of each but the first."""
    base, ds, reduces = engine.basic_optimizer, [], []
    for index in range(STEPS):
        with counted() as number:
            step(index)
        reduces.append(number[0])
        ds.append(base.d)
    return {"d": ds, "reduces": reduces[1:], "k": int(base._all_groups[0]["k"]), "steps": base.step_size.steps}


def train_rows(engine: Any, rank: int, world: int) -> Trace:
    """Train on share `rank` of `world` of each batch."""
    start, rows = rank * BATCH // world, BATCH // world

    def step(index: int) -> None:
        x, target = (t[start : start + rows] for t in batch(index))
        engine.backward(loss_of(engine(x), target))
        engine.step()

    return train(engine, step)


def reference(model: nn.Module, scale: float = 1.0, method: str = "prodigy", *, lagged: bool = False) -> list[float]:
    """d after every step of one process with the whole batch, in float64. scale: of the loss."""
    model = copy.deepcopy(model).to(torch.float64)
    params = [p for p in model.parameters() if p.requires_grad]
    oracle, ds = ORACLES[method](params, lagged=lagged, **options(method)), []
    for step in range(STEPS):
        x, target = batch(step)
        for p, value in zip(params, oracle.params, strict=True):
            p.data.copy_(value)
        loss = loss_of(model(x.double()), target.double()) * scale
        oracle.step(list(torch.autograd.grad(loss, params)))
        ds.append(oracle.d)
    return ds


def compare(traces: list[Trace], ds: list[float], tolerance: float = 1e-6) -> None:
    """All ranks have the same d bit for bit, it is that of one process, and each step had one reduce."""
    assert all(trace["d"] == traces[0]["d"] for trace in traces)
    assert all(trace["k"] == trace["steps"] == STEPS for trace in traces)
    assert all(trace["reduces"] == [1] * (STEPS - 1) for trace in traces)  # the first places the parameters too
    assert traces[0]["d"] == pytest.approx(ds, rel=tolerance)
    assert abs(ds[-1] / ds[0] - 1) > 0.05  # there was something to get wrong


# ---------------------------------------------------------------- pipeline


class Seeded(nn.Linear):
    """A linear layer with the same weights wherever it is built."""

    def __init__(self, inputs: int, outputs: int, seed: int) -> None:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            super().__init__(inputs, outputs)


class Tanh(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(x)


def layers() -> list[Any]:
    """A TiedLayerSpec ties the weight alone: its bias is another one on each stage."""
    first, last = Seeded(WIDTH, WIDTH, 1), Seeded(WIDTH, WIDTH, 4)
    last.weight = first.weight
    return [first, Tanh(), nn.LayerNorm(WIDTH), Seeded(WIDTH, WIDTH, 2), Tanh(), last, Seeded(WIDTH, OUT, 3)]


def run_pipeline(stage: int, dp: int, method: str) -> Trace:
    package = deepspeed()
    from deepspeed.pipe import PipelineModule, TiedLayerSpec

    modules = layers()
    modules[0], modules[5] = (TiedLayerSpec("both", Seeded, WIDTH, WIDTH, seed) for seed in (1, 4))
    model = PipelineModule(layers=modules, num_stages=2, loss_fn=loss_of, partition_method="uniform")
    base = ALL[method](model.parameters(), **options(method))
    engine = package.initialize(model=model, optimizer=base, config=config(stage, dp, 2))[0]
    return train_pipeline(engine, dp)


def train_pipeline(engine: Any, dp: int) -> Trace:
    rows, rank = BATCH // dp // 2, engine.grid.get_data_parallel_id()

    def step(index: int) -> None:
        x, target = batch(index)
        starts = [(part * dp + rank) * rows for part in range(2)]
        engine.train_batch(data_iter=iter([(x[s : s + rows], target[s : s + rows]) for s in starts]))

    with contextlib.redirect_stdout(io.StringIO()):
        return train(engine, step)


@pytest.mark.parametrize(
    ("method", "stage", "dp"),
    [*(("prodigy", stage, dp) for stage in (0, 1) for dp in (1, 2)), *((name, 1, 2) for name in BEFORE_D)],
)
def test_a_pipeline_with_a_tied_layer(pools: Callable[[int], WorkerPool], method: str, stage: int, dp: int) -> None:
    """With ZeRO-1 on two ranks a stage, the tied weight is cut elsewhere on each stage."""
    compare(pools(2 * dp).run(run_pipeline, stage, dp, method), reference(nn.Sequential(*layers()), method=method))


def run_frozen_stage() -> Trace:
    package = deepspeed()
    from deepspeed.pipe import PipelineModule

    model = PipelineModule(layers=untied(), num_stages=2, loss_fn=loss_of, partition_method="uniform")
    if model.stage_id == 1:
        model.requires_grad_(False)
    base = dd.Prodigy(model.parameters(), **OPTIONS)
    engine = package.initialize(model=model, optimizer=base, config=config(0, 1, 2))[0]
    return train_pipeline(engine, 1)


def untied() -> list[Any]:
    return [Seeded(WIDTH, WIDTH, 1), Tanh(), Seeded(WIDTH, WIDTH, 2), Tanh(), Seeded(WIDTH, OUT, 3)]


def test_a_stage_whose_parameters_are_all_frozen_takes_part(pools: Callable[[int], WorkerPool]) -> None:
    """At ZeRO stage 0; with ZeRO-1 DeepSpeed itself cannot build such a stage, with any optimizer."""
    model = nn.Sequential(*untied())
    for layer in model[3:]:
        layer.requires_grad_(False)
    compare(pools(2).run(run_frozen_stage), reference(model))


def run_slices_in_a_pipeline(stage: int) -> Trace:
    package = deepspeed()
    from deepspeed.pipe import PipelineModule
    from deepspeed.runtime.pipe.topology import PipeModelDataParallelTopology

    topology = PipeModelDataParallelTopology(num_pp=2, num_mp=2, num_dp=1)
    tensor = [dist.new_group([0, 1]), dist.new_group([2, 3])][dist.get_rank() // 2]
    first, last = (Sliced(tensor, "tensor_model_parallel") for _ in range(2))
    modules = [first, Tanh(), Seeded(OUT, WIDTH, 4), last]
    model = PipelineModule(layers=modules, topology=topology, loss_fn=loss_of, partition_method="uniform")
    base = dd.Prodigy(model.parameters(), **OPTIONS)
    engine = package.initialize(model=model, optimizer=base, config=config(stage, 1, 2))[0]
    return train_pipeline(engine, 1)


@pytest.mark.parametrize("stage", [0, 1])
def test_tensor_parallel_slices_in_a_pipeline(pools: Callable[[int], WorkerPool], stage: int) -> None:
    model = nn.Sequential(Block(8), Tanh(), Seeded(OUT, WIDTH, 4), Block(8))
    compare(pools(4).run(run_slices_in_a_pipeline, stage), reference(model))


# ---------------------------------------------------------------- experts


class Dense(nn.Module):
    """What DeepSpeed's MoE computes when no token is dropped: the most probable expert's answer times its probability."""

    def __init__(self, experts: int) -> None:
        super().__init__()
        self.inp, self.out = Seeded(WIDTH, WIDTH, 1), Seeded(WIDTH, OUT, 2)
        self.gate = gate(experts)
        self.experts = nn.ModuleList([expert(index) for index in range(experts)])

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.inp(x))
        probabilities = torch.softmax(self.gate(h), dim=1)
        chosen = nn.functional.one_hot(probabilities.argmax(dim=1), len(self.experts))
        answers = torch.stack([expert(h) for expert in self.experts], dim=1)
        return self.out(h + ((probabilities * chosen).unsqueeze(2) * answers).sum(dim=1))


def gate(experts: int) -> nn.Linear:
    layer = nn.Linear(WIDTH, experts, bias=False)
    layer.weight.data = torch.randn(experts, WIDTH, generator=torch.Generator().manual_seed(3))
    return layer


def expert(index: int) -> nn.Sequential:
    return nn.Sequential(Seeded(WIDTH, 5, 70 + index), Tanh(), Seeded(5, WIDTH, 90 + index))


class Sparse(nn.Module):
    """The same with DeepSpeed's MoE: `ep` ranks hold different experts."""

    def __init__(self, experts: int, ep: int) -> None:
        from deepspeed.moe.layer import MoE

        super().__init__()
        self.inp, self.out = Seeded(WIDTH, WIDTH, 1), Seeded(WIDTH, OUT, 2)
        how = {"k": 1, "capacity_factor": 100.0, "eval_capacity_factor": 100.0, "min_capacity": 0, "use_rts": False}
        self.moe = MoE(WIDTH, expert(0), num_experts=experts, ep_size=ep, **how)
        self.moe.deepspeed_moe.gate.wg.weight.data = gate(experts).weight.data
        local = self.moe.deepspeed_moe.experts.deepspeed_experts
        for index, module in enumerate(local):
            module.load_state_dict(expert(dist.get_rank() % ep * len(local) + index).state_dict())

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.inp(x))
        return self.out(h + self.moe(h)[0])


def run_experts(stage: int, experts: int, ep: int, entry: str, method: str = "prodigy") -> Trace:
    package = deepspeed()
    from deepspeed.moe.utils import split_params_into_different_moe_groups_for_optimizer

    model, world = Sparse(experts, ep), dist.get_world_size()
    settings, given = config(stage, world), {"model_parameters": list(model.parameters())}
    if entry == "json":
        settings["optimizer"] = {"type": ALL[method].__name__, "params": options(method)}
    elif entry == "one group":
        given = {"optimizer": ALL[method](model.parameters(), **options(method))}
    else:
        group = {"params": list(model.parameters()), "name": "all"}
        given = {
            "optimizer": ALL[method](split_params_into_different_moe_groups_for_optimizer(group), **options(method))
        }
    engine = package.initialize(model=model, config=settings, **given)[0]
    return train_rows(engine, dist.get_rank(), world)


@pytest.mark.parametrize(
    ("world", "stage", "experts", "ep", "entry"),
    [
        (2, 0, 4, 2, "one group"),
        (2, 1, 2, 2, "groups"),
        (2, 2, 4, 2, "groups"),
        (2, 1, 4, 1, "json"),
        (4, 0, 4, 2, "json"),
        (4, 2, 4, 2, "json"),
        (4, 1, 4, 4, "groups"),
    ],
)
def test_experts_count_once(
    pools: Callable[[int], WorkerPool], world: int, stage: int, experts: int, ep: int, entry: str
) -> None:
    compare(pools(world).run(run_experts, stage, experts, ep, entry), reference(Dense(experts)))


@pytest.mark.parametrize("method", BEFORE_D)
def test_experts_count_once_in_the_sums_before_the_move(pools: Callable[[int], WorkerPool], method: str) -> None:
    """ZeRO brings the groups of experts in pieces of a step: its sums are those of the step before."""
    for stage, entry in ((0, "one group"), (2, "groups")):
        traces = pools(4).run(run_experts, stage, 4, 2, entry, method)
        compare(traces, reference(Dense(4), method=method, lagged=stage > 0))


# ---------------------------------------------------------------- tensor parallel


class Block(nn.Module):
    """A norm, two layers that tensor parallelism cuts, and a head that it leaves alone. `hidden` may be odd."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)
        self.up, self.down = Seeded(WIDTH, hidden, 1), Seeded(hidden, WIDTH, 2)
        self.head = Seeded(WIDTH, OUT, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x + self.down(torch.tanh(self.up(self.norm(x)))))


AUTO = {
    "tensor_parallel": {
        "autotp_size": 2,
        "partition_config": {
            "use_default_specs": False,
            "layer_specs": [
                {"patterns": [r".*up\.(weight|bias)$"], "partition_type": "column"},
                {"patterns": [r".*down\.(weight|bias)$"], "partition_type": "row"},
            ],
        },
    }
}


def knows_pairs(optimizer: Any) -> bool:
    """Whether neighbours, and no others, are seen to be tensor parallel."""
    params = [p for _, _, p in optimizer._named_params()]
    first = dist.get_rank() // 2 * 2
    return tuple(registry.tensor_parallel_ranks(params)) == (first, first + 1)


def run_auto(stage: int, hidden: int, method: str) -> Trace:
    package, dp = deepspeed(), dist.get_world_size() // 2
    given = {"type": ALL[method].__name__, "params": options(method)}
    model, settings = Block(hidden), config(stage, dp, **AUTO, optimizer=given)
    engine = package.initialize(model=model, model_parameters=model.parameters(), config=settings)[0]
    assert knows_pairs(engine.basic_optimizer)
    return train_rows(engine, dist.get_rank() // 2, dp)


@pytest.mark.parametrize(
    ("method", "world", "stage", "hidden"),
    [
        *(("prodigy", *how) for how in [(2, 0, 9), (2, 1, 9), (2, 2, 8), (2, 3, 9), (4, 1, 8), (4, 3, 9)]),
        *((name, *how) for name in BEFORE_D for how in [(2, 1, 9), (4, 3, 9)]),
    ],
)
def test_autotp(pools: Callable[[int], WorkerPool], method: str, world: int, stage: int, hidden: int) -> None:
    """An odd number of hidden features is cut unevenly."""
    compare(pools(world).run(run_auto, stage, hidden, method), reference(Block(hidden), method=method))


class Mpu:
    """A model-parallel unit as Megatron's: neighbours are tensor-parallel."""

    def __init__(self, tp: int) -> None:
        ranks, me = list(range(dist.get_world_size())), dist.get_rank()
        rows = [ranks[i : i + tp] for i in ranks[::tp]]
        self.tensor = [dist.new_group(row) for row in rows][me // tp]
        self.data = [dist.new_group(list(column)) for column in zip(*rows, strict=True)][me % tp]

    def get_model_parallel_group(self) -> Any:
        return self.tensor

    def get_model_parallel_rank(self) -> int:
        return dist.get_rank(self.tensor)

    def get_model_parallel_world_size(self) -> int:
        return dist.get_world_size(self.tensor)

    def get_data_parallel_group(self) -> Any:
        return self.data

    def get_data_parallel_rank(self) -> int:
        return dist.get_rank(self.data)

    def get_data_parallel_world_size(self) -> int:
        return dist.get_world_size(self.data)


class Enter(torch.autograd.Function):
    """The same input for all, and the sum of their gradients."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, group: Any) -> Tensor:
        ctx.group = group
        return x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        gradient = gradient.clone()
        dist.all_reduce(gradient, group=ctx.group)
        return gradient, None


class Leave(torch.autograd.Function):
    """The sum of all outputs, and the same gradient for all."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, group: Any) -> Tensor:
        x = x.clone()
        dist.all_reduce(x, group=group)
        return x

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        return gradient, None


@dataclass
class Ranks:
    """Holds a process group in a module that is copied."""

    group: Any

    def __deepcopy__(self, memo: Any) -> "Ranks":
        return self


class Sliced(Block):
    """The block as Megatron cuts it: slices in plain tensors, which only an attribute tells from whole ones."""

    def __init__(self, group: Any, mark: str) -> None:
        super().__init__(8)
        self.ranks, size, rank = Ranks(group), dist.get_world_size(group), dist.get_rank(group)
        up, down = self.up, self.down
        self.weight = nn.Parameter(up.weight.detach().chunk(size)[rank].clone())
        self.bias = nn.Parameter(up.bias.detach().chunk(size)[rank].clone())
        self.row = nn.Parameter(down.weight.detach().chunk(size, dim=1)[rank].clone())
        self.added = nn.Parameter(down.bias.detach().clone())
        del self.up, self.down
        for p in (self.weight, self.bias, self.row):
            setattr(p, mark, True)
        self.added.tensor_model_parallel = False

    def forward(self, x: Tensor) -> Tensor:
        group = self.ranks.group
        h = torch.tanh(nn.functional.linear(Enter.apply(self.norm(x), group), self.weight, self.bias))
        return self.head(x + Leave.apply(nn.functional.linear(h, self.row), group) + self.added)


def run_mpu(stage: int, mark: str) -> Trace:
    package, dp = deepspeed(), dist.get_world_size() // 2
    mpu = Mpu(2)
    model = Sliced(mpu.tensor, mark)
    base = dd.Prodigy(model.parameters(), **OPTIONS)
    engine = package.initialize(model=model, optimizer=base, config=config(stage, dp), mpu=mpu)[0]
    assert knows_pairs(base)
    return train_rows(engine, mpu.get_data_parallel_rank(), dp)


@pytest.mark.parametrize(
    ("world", "stage", "mark"),
    [
        (2, 0, "model_parallel"),
        (2, 1, "tensor_model_parallel"),
        (2, 2, "model_parallel"),
        (2, 3, "tensor_model_parallel"),
        (4, 0, "tensor_model_parallel"),
        (4, 2, "model_parallel"),
    ],
)
def test_slices_that_an_attribute_marks(pools: Callable[[int], WorkerPool], world: int, stage: int, mark: str) -> None:
    compare(pools(world).run(run_mpu, stage, mark), reference(Block(8)))


# ---------------------------------------------------------------- sequence parallel, hpZ


def run_sequences(stage: int, how: str) -> Trace:
    package, world, rank = deepspeed(), dist.get_world_size(), dist.get_rank()
    more, given, share = {}, {}, (rank, world)
    if how == "mesh":  # DeepSpeed adds up nothing over the ranks of a sequence: they have the same rows
        more, share = {"sequence_parallel_size": 2, "data_parallel_size": world // 2}, (rank // 2, world // 2)
    else:
        from deepspeed.runtime.sequence_parallel import parallel_state_sp

        parallel_state_sp.initialize_sequence_parallel(2)
        given = {"mpu": parallel_state_sp}
    model = Block(8)
    base = dd.Prodigy(model.parameters(), **OPTIONS)
    engine = package.initialize(model=model, optimizer=base, config=config(stage, world // 2, **more), **given)[0]
    return train_rows(engine, *share)


@pytest.mark.parametrize(
    ("world", "stage", "how"),
    [(2, 0, "mesh"), (2, 1, "mesh"), (2, 3, "mesh"), (2, 2, "mpu"), (4, 1, "mesh"), (4, 1, "mpu"), (4, 3, "mpu")],
)
def test_ulysses(pools: Callable[[int], WorkerPool], world: int, stage: int, how: str) -> None:
    """DeepSpeed divides by the data-parallel ranks alone; at stage 3 by those of the sequence too."""
    compare(pools(world).run(run_sequences, stage, how), reference(Block(8), 2.0 if stage < 3 else 1.0))


def run_hpz() -> Trace:
    package, world = deepspeed(), dist.get_world_size()
    model, settings = Block(8), config(3, world, zero={"zero_hpz_partition_size": 2})
    base = dd.Prodigy(model.parameters(), **OPTIONS)
    return train_rows(package.initialize(model=model, optimizer=base, config=settings)[0], dist.get_rank(), world)


def test_hpz(pools: Callable[[int], WorkerPool]) -> None:
    compare(pools(4).run(run_hpz), reference(Block(8)))
