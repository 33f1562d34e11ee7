"""Train a tiny model through DeepSpeed in every configuration; `train` runs on every rank of a `WorkerPool`."""

import gc
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_pre_hook

import dadapt_dist as dd
from dadapt_dist import optimizers
from dadapt_dist.comm.communicator import ShardLayout

from .classes import ALL, first_d

BATCH, STEPS, SUB_GROUP = 12, 6, 15
# Elements of a group are cut by whole parameters into sub-groups of at least SUB_GROUP elements a rank: groups -> sub-groups.
SUB_GROUPS = {1: 4, 3: 5}
DECAYS: dict[int, tuple[float, ...]] = {1: (0.2,), 3: (0.5, 0.0, 0.2), 4: (0.5, 0.0, 0.2, 0.1)}
SPECIAL: dict[str, dict[str, Any]] = {
    "prodigy": {"d_coef": 2.0, "use_bias_correction": True},
    "dadapt_sgd": {"d0": 1e-2, "momentum": 0.9},  # so large that a wrong first step shows
    "dadapt_adagrad": {"momentum": 0.5},
    "dog": {"reps_rel": 1e-2},  # of d ‖x - x0‖, which float32 weights give to 1e-6 only where it is no smaller
    "dowg": {"d0": 0.1},
    "adagrad_pp": {"d0": 1e-2},
    "adam_pp": {"d0": 1e-2, "eps": 1e-3},
    "kt": {"first_wealth": 0.3},
    "momo": {"cap": 0.1},  # with steps of 1 the rounding of bfloat16 gradients grows
    "schedule_free_sgd": {"lr": 0.1},  # with 1.0 the rounding of bfloat16 grows in a few steps
}
OPTIONS: dict[str, dict[str, Any]] = {name: {**first_d(name, 1e-3), **SPECIAL.get(name, {})} for name in ALL}
# bf16+fp32: micro-steps are added up in float32, which at stage 1 is DeepSpeed's BF16_Optimizer.
DTYPES = {"bf16": torch.bfloat16, "bf16+fp32": torch.bfloat16, "fp16": torch.float16}


class Odd(nn.Module):
    """Every tensor has an odd number of elements: whatever cuts them in two or more pads."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.inp = nn.Linear(5, 7)
        self.norm = nn.LayerNorm(7)
        self.mid = nn.Linear(7, 9)
        self.head = nn.Linear(9, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.mid(self.norm(torch.tanh(self.inp(x))))))


NAMES = [name for name, _ in Odd().named_parameters()]
SHAPES = [p.shape for p in Odd().parameters()]


def indices(groups: int) -> list[list[int]]:
    """The parameters of each group: all; matrices, vectors, the head's weight; and with four the head's bias apart."""
    if groups == 1:
        return [list(range(len(NAMES)))]
    head, bias = NAMES.index("head.weight"), NAMES.index("head.bias")
    vectors = [i for i, shape in enumerate(SHAPES) if len(shape) == 1 and (i != bias or groups == 3)]
    matrices = [i for i, shape in enumerate(SHAPES) if len(shape) == 2 and i != head]
    return [matrices, vectors, [head], *([[bias]] if groups == 4 else [])]


def batch(step: int) -> tuple[Tensor, Tensor]:
    """The global batch of a step."""
    generator = torch.Generator().manual_seed(2000 + step)
    x = torch.randn(BATCH, 5, generator=generator) * (1 + step % 3)
    return x, torch.tanh(x[:, :3]) + 0.1 * torch.randn(BATCH, 3, generator=generator)


def loss_of(out: Tensor, y: Tensor) -> Tensor:
    return ((out.to(y.dtype) - y) ** 2).mean()


@dataclass(frozen=True, kw_only=True)
class Case:
    """One configuration of DeepSpeed and the optimizer.

    precision: "fp32", a key of DTYPES, or "autocast". sub_group: elements in a sub-group of stage 3. offload: what lives
    on the CPU, "optimizer" or "parameters". entry: how DeepSpeed gets the optimizer, "object", "json" or "callable".
    options, zero, config: added to the optimizer's options, to DeepSpeed's zero_optimization and to its whole config.
    lrs: of all groups, step by step. spoiled: step -> rank whose loss is infinite. nan_padding: torch.empty gives NaN.
    """

    stage: int
    method: str = "prodigy"
    groups: int = 1
    precision: str = "fp32"
    clip: float = 0.0
    accumulation: int = 1
    sub_group: int = 10**9
    offload: str | None = None
    entry: str = "object"
    options: Mapping[str, Any] = field(default_factory=dict)
    zero: Mapping[str, Any] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)
    lrs: tuple[float, ...] = ()
    spoiled: Mapping[int, int] = field(default_factory=dict)
    nan_padding: bool = False
    steps: int = STEPS

    def __str__(self) -> str:
        """The stage, and the fields that are not the defaults."""
        usual, names = Case(stage=self.stage), [f.name for f in fields(self)]
        parts = [f"{name}={getattr(self, name)}" for name in names if getattr(self, name) != getattr(usual, name)]
        return " ".join([f"stage {self.stage}", *parts])

    @property
    def optimizer_options(self) -> dict[str, Any]:
        return {**OPTIONS.get(self.method, {}), **self.options}

    @property
    def in_pieces(self) -> bool:
        """Does a step come in several calls?"""
        return self.stage > 0 and (self.groups > 1 or (self.stage == 3 and self.sub_group == SUB_GROUP))

    @property
    def dtype(self) -> torch.dtype:
        """That of the model's weights."""
        return DTYPES.get(self.precision, torch.float32)

    def deepspeed_config(self) -> dict[str, Any]:
        zero: dict[str, Any] = {"stage": self.stage, "reduce_bucket_size": 10_000}
        if self.stage == 3:
            zero |= {"stage3_param_persistence_threshold": 0, "sub_group_size": self.sub_group}
        if self.offload:
            zero["offload_optimizer"] = {"device": "cpu", "pin_memory": False}
        if self.offload == "parameters":
            zero["offload_param"] = {"device": "cpu", "pin_memory": False}
        config: dict[str, Any] = {
            "train_micro_batch_size_per_gpu": BATCH // dist.get_world_size() // self.accumulation,
            "gradient_accumulation_steps": self.accumulation,
            "gradient_clipping": self.clip,
            "steps_per_print": 10**9,
            "zero_force_ds_cpu_optimizer": False,
            "zero_optimization": {**zero, **self.zero},
        }
        if self.precision == "fp16":
            config["fp16"] = {"enabled": True, "initial_scale_power": 8, "loss_scale_window": 1000, "hysteresis": 1}
        elif self.precision == "autocast":
            config["torch_autocast"] = {"enabled": True, "dtype": "bfloat16"}
        elif self.precision != "fp32":
            config["bf16"] = {"enabled": True}
        if self.precision == "bf16+fp32":
            config["data_types"] = {"grad_accum_dtype": "fp32"}
        return {**config, **self.config}


class Trainer:
    """An engine of a case on this rank, its optimizer, and counts of what the optimizer does; a context manager.

    calls: of the optimizer's step(). collectives: the optimizer's own. model: instead of Odd, with groups of its own.
    """

    def __init__(self, case: Case, model: nn.Module | None = None, groups: list[dict[str, Any]] | None = None) -> None:
        self.case, self.model = case, model or Odd()
        self.calls = self.collectives = 0
        self._hook = register_optimizer_step_pre_hook(self._count)
        self._counting = counted(self)
        self._counting.__enter__()
        torch.use_deterministic_algorithms(case.nan_padding)
        deepspeed = quiet_deepspeed()
        self.engine, self.wrapper, *_ = deepspeed.initialize(model=self.model, **self._arguments(groups))
        self.base: dd.LearningRateFree = self.engine.basic_optimizer

    def _arguments(self, groups: list[dict[str, Any]] | None) -> dict[str, Any]:
        case, params = self.case, list(self.model.parameters())
        groups = groups or [
            {"params": [params[i] for i in which], "weight_decay": decay}
            for which, decay in zip(indices(case.groups), DECAYS[case.groups], strict=True)
        ]
        cls, options, config = optimizers.of_method(case.method), case.optimizer_options, case.deepspeed_config()
        if case.entry == "json":
            config["optimizer"] = {"type": cls.__name__, "params": options}
            return {"model_parameters": groups, "config": config}
        if case.entry == "callable":
            return {"model_parameters": groups, "optimizer": lambda given: cls(given, **options), "config": config}
        return {"optimizer": cls(groups, **options), "config": config}

    def _count(self, optimizer: Any, *_: Any) -> None:
        self.calls += isinstance(optimizer, dd.LearningRateFree)

    def step(self, step: int) -> None:
        """One global step, on this rank's parts of the batch."""
        ranks, rank = dist.get_world_size(), dist.get_rank()
        n = BATCH // ranks // self.case.accumulation
        x, y = batch(step)
        if self.case.lrs:
            for group in self.base.param_groups:
                group["lr"] = self.case.lrs[step]
        for piece in range(self.case.accumulation):
            at = slice((piece * ranks + rank) * n, (piece * ranks + rank + 1) * n)
            loss = loss_of(self.engine(x[at].to(self.case.dtype)), y[at])
            self.engine.backward(loss * float("inf") if self.case.spoiled.get(step) == rank else loss)
            self.engine.step()

    def weights(self) -> list[Tensor]:
        """The model's weights, whole and float32."""
        import deepspeed

        params = list(self.model.parameters())
        with deepspeed.zero.GatheredParameters(params, enabled=self.case.stage == 3):
            return [p.detach().float().clone() for p in params]

    def masters(self) -> list[Tensor]:
        """What the optimizer moves, put together parameter by parameter."""
        from deepspeed.utils import safe_get_full_fp32_param

        params = list(self.model.parameters())
        if self.case.stage == 0:
            groups = getattr(self.wrapper, "fp32_groups", None)
            order = [i for which in indices(self.case.groups) for i in which]
            found = zip(order, (p for group in groups for p in group), strict=True) if groups else enumerate(params)
            return [p.detach().clone() for _, p in sorted(found, key=lambda pair: pair[0])]
        shapes = [getattr(p, "ds_shape", p.shape) for p in params]
        found_list = [safe_get_full_fp32_param(p) for p in params]
        return [p.detach().float().clone().view(shape) for p, shape in zip(found_list, shapes, strict=True)]

    def __enter__(self) -> "Trainer":
        return self

    def __exit__(self, *_: object) -> None:
        """End this engine. Engines are found among the live objects, and it may stay there for a while: it lets go."""
        from deepspeed.runtime import torch_autocast

        self._hook.remove()
        self._counting.__exit__(None, None, None)
        self.engine.destroy()
        torch.use_deterministic_algorithms(False)
        torch_autocast.TORCH_AUTOCAST_INITIALIZED = False  # DeepSpeed leaves it set for the engines to come
        self.engine.basic_optimizer = None


def same_bits(a: Tensor, b: Tensor) -> bool:
    """Are two tensors equal, also where both are nan? DeepSpeed pads its partitions with memory that nobody has written."""
    return a.dtype == b.dtype and a.shape == b.shape and torch.equal(_bytes(a), _bytes(b))


def _bytes(t: Tensor) -> Tensor:
    return t.detach().contiguous().reshape(-1).view(torch.uint8)


def quiet_deepspeed() -> Any:
    """DeepSpeed without its log, its build of a shared-memory reduce, and its refusal of fp16 on CPUs.

    DeepSpeed calls gc.collect() for every engine of stage 3; what is imported is set aside, which makes it ten times faster.
    """
    import deepspeed
    from deepspeed.accelerator import get_accelerator

    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    deepspeed.utils.logger.setLevel(logging.ERROR)
    get_accelerator().is_fp16_supported = lambda: True
    if gc.get_freeze_count() == 0:
        gc.freeze()
    return deepspeed


@contextmanager
def counted(trainer: Trainer) -> Iterator[None]:
    """Add every collective of an optimizer of ours to trainer.collectives."""
    originals = {name: getattr(ShardLayout, name) for name in ("all_reduce", "all_gather", "all_gather_object")}

    def counting(original: Any) -> Any:
        def call(layout: ShardLayout, item: Any) -> Any:
            trainer.collectives += 1
            return original(layout, item)

        return call

    for name, original in originals.items():
        setattr(ShardLayout, name, counting(original))
    try:
        yield
    finally:
        for name, original in originals.items():
            setattr(ShardLayout, name, original)


@dataclass
class Run:
    """What one rank saw: of initialize, of each step, and at the end.

    moved: with fp16, did a master weight change? weights: the model's at the end; masters: those that the optimizer moves.
    """

    wrapper: str
    before: tuple[int, int]  # collectives and calls of step() during initialize
    d: list[float] = field(default_factory=list)
    k: list[int] = field(default_factory=list)
    steps: list[int] = field(default_factory=list)
    collectives: list[int] = field(default_factory=list)
    calls: list[int] = field(default_factory=list)
    skipped: list[bool] = field(default_factory=list)
    moved: list[bool] = field(default_factory=list)
    weights: list[Tensor] = field(default_factory=list)
    masters: list[Tensor] = field(default_factory=list)

    @property
    def bits(self) -> list[str]:
        return [d.hex() for d in self.d]


def train(case: Case) -> Run:
    """On every rank: train through DeepSpeed."""
    with Trainer(case) as trainer:
        base, engine = trainer.base, trainer.engine
        run = Run(type(trainer.wrapper).__name__, (trainer.collectives, trainer.calls))
        masters = trainer.masters() if case.precision == "fp16" else []
        for step in range(case.steps):
            trainer.collectives, trainer.calls, skipped = 0, 0, engine.skipped_steps
            trainer.step(step)
            run.collectives.append(trainer.collectives)
            run.calls.append(trainer.calls)
            run.skipped.append(engine.skipped_steps > skipped)
            run.d.append(base.d)
            run.k.append(int(base.step_size._value(base._all_groups[0]["estimate"], "k")))
            run.steps.append(base.step_size.steps)
            before, masters = masters, trainer.masters() if masters else []
            run.moved.append(any(not torch.equal(a, b) for a, b in zip(before, masters, strict=True)))
        run.weights, run.masters = trainer.weights(), trainer.masters()
    return run


def train_all(cases: Sequence[Case]) -> list[Run]:
    """On every rank: train one case after the other."""
    return [train(case) for case in cases]
