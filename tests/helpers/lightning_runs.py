"""Run PyTorch Lightning on every rank of a `WorkerPool`, and return what each rank saw.

Lightning has FSDP1 and DeepSpeed for GPUs only and says so in a check of its own; the subclasses here leave that check out
and name the CPU as the device. FSDP2 (`ModelParallelStrategy`) and DDP run as they are.
"""

import gc
import os
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

import dadapt_dist as dd
from dadapt_dist import schedules

from .models import BATCH, Tiny, batch, part

STEPS, SAVED = 8, 4
OPTIONS: dict[str, Any] = {"d0": 1e-3, "d_coef": 4.0, "safeguard_warmup": True, "weight_decay": 0.1}


@dataclass(frozen=True, kw_only=True)
class Case:
    """One run. kind: "one", "ddp", "fsdp1", "fsdp2", "zero2", "zero3". clip: under DeepSpeed in its config."""

    kind: str
    optimizer: str = "Prodigy"
    options: dict[str, Any] = field(default_factory=lambda: OPTIONS)
    exact: bool = True  # float64, where Lightning leaves it
    clip: float | None = None

    @property
    def deepspeed(self) -> bool:
        return self.kind.startswith("zero")

    @property
    def dtype(self) -> torch.dtype:
        in_float32 = (
            self.deepspeed or self.kind == "fsdp1"
        )  # DeepSpeed keeps such weights, Lightning tells FSDP1 to cast
        return torch.float64 if self.exact and not in_float32 else torch.float32


@dataclass
class Run:
    """What one rank saw: d after each step, what was logged, the weights at the end, and what Lightning held."""

    d: list[float]
    logged: list[dict[str, float]]
    weights: list[Tensor]
    strategy: str
    wrapper: str


@contextmanager
def _changed(owner: Any, name: str, **arguments: Any) -> Iterator[None]:
    """A function that is called with these arguments instead of those that Lightning gives."""
    original = getattr(owner, name)
    setattr(owner, name, lambda *given, **named: original(*given, **named | arguments))
    try:
        yield
    finally:
        setattr(owner, name, original)


def strategy(case: Case) -> Any:
    import deepspeed
    from lightning.pytorch.strategies import DDPStrategy, DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy
    from torch.distributed.fsdp import FullyShardedDataParallel
    from torch.distributed.fsdp.wrap import ModuleWrapPolicy

    class CpuFSDP(FSDPStrategy):
        """Lightning asks for a GPU where the class is FSDPStrategy itself, and torch where FSDP is told no device."""

        def _setup_model(self, model: nn.Module) -> nn.Module:
            with _changed(FullyShardedDataParallel, "__init__", device_id=torch.device("cpu")):
                return super()._setup_model(model)

    class CpuDeepSpeed(DeepSpeedStrategy):
        def setup_environment(self) -> None:
            super(DeepSpeedStrategy, self).setup_environment()

        def setup_distributed(self) -> None:
            self.set_world_ranks()
            self._init_deepspeed_distributed()

        def _setup_model_and_optimizer(self, *given: Any) -> Any:
            with _changed(deepspeed, "initialize", args=Namespace(device_rank=0)):
                return super()._setup_model_and_optimizer(*given)

    if case.kind == "one":
        return "auto"
    if case.kind == "ddp":
        return DDPStrategy()
    if case.kind == "fsdp1":
        return CpuFSDP(auto_wrap_policy=ModuleWrapPolicy({nn.Linear}), state_dict_type="sharded")
    if case.kind == "fsdp2":
        return ModelParallelStrategy(data_parallel_size=2, tensor_parallel_size=1)
    config = {"train_micro_batch_size_per_gpu": BATCH // 2, "zero_optimization": {"stage": int(case.kind[-1])}}
    config |= {} if case.clip is None else {"gradient_clipping": case.clip}
    return CpuDeepSpeed(config=config)


def module(case: Case, seed: int = 0) -> Any:
    import lightning.pytorch as pl

    class Module(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net, self.seen = Tiny(seed, case.dtype), []

        def configure_model(self) -> None:
            if case.kind == "fsdp2":
                from torch.distributed.fsdp import fully_shard

                for block in self.net.blocks:
                    fully_shard(block, mesh=self.device_mesh["data_parallel"])
                fully_shard(self.net, mesh=self.device_mesh["data_parallel"])

        def training_step(self, _: Tensor, index: int) -> Tensor:
            x, y = (part(t, self.global_rank, self.trainer.world_size) for t in batch(self.global_step, case.dtype))
            return ((self.net(x) - y) ** 2).mean()

        def configure_optimizers(self) -> dict[str, Any]:
            optimizer = getattr(dd, case.optimizer)(self.net.parameters(), **case.options)
            scheduler = schedules.linear_decay_with_warmup(optimizer, total_steps=STEPS, warmup=0.25)
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

        def on_train_batch_end(self, *_: Any) -> None:
            self.seen.append(dd.base_optimizer(self.trainer.optimizers[0]).d)

    return Module()


def recorder() -> Any:
    """A logger of a user's, which keeps what it is given."""
    from lightning.pytorch.loggers.logger import Logger

    class Kept(Logger):
        name, version = "kept", 0

        def __init__(self) -> None:
            super().__init__()
            self.seen: list[dict[str, float]] = []

        def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
            self.seen.append({**metrics, "step": step})

        def log_hyperparams(self, *_: Any, **__: Any) -> None:
            return None

    return Kept()


def loader() -> DataLoader[Any]:
    """As many batches as steps. Their content follows from the step: Lightning shuffles, and forgets its place on resuming."""
    return DataLoader(torch.arange(2 * STEPS), batch_size=1)  # type: ignore[arg-type]


@contextmanager
def world(case: Case) -> Iterator[None]:
    """This process as torchrun would have started it; a lone process without the variables of a rank."""
    before = dict(os.environ)
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    if case.kind != "one":
        os.environ |= {"TORCHELASTIC_RUN_ID": "tests", "GROUP_RANK": "0"}
    if case.deepspeed:
        from .deepspeed_runs import quiet_deepspeed

        quiet_deepspeed()
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def trainer(case: Case, folder: str, steps: int = STEPS, **given: Any) -> tuple[Any, Any]:
    """A Trainer as users make it, and its logger."""
    import lightning.pytorch as pl

    from dadapt_dist.integrations.lightning import DAdaptCallback

    kept = recorder()
    usual = {
        "accelerator": "cpu", "devices": 1 if case.kind == "one" else 2, "strategy": strategy(case), "max_steps": steps,
        "logger": kept, "log_every_n_steps": 2, "callbacks": [DAdaptCallback()], "enable_progress_bar": False,
        "gradient_clip_val": None if case.deepspeed else case.clip,
        "enable_model_summary": False, "enable_checkpointing": False, "default_root_dir": folder,
    }  # fmt: skip
    return pl.Trainer(**usual | given), kept


def run(case: Case, folder: str, resume: bool = False) -> Run:
    """All steps; or four, a checkpoint, and the others with a new Trainer and a model that begins elsewhere."""
    with world(case):
        path, seen = f"{folder}/middle.ckpt", []
        if resume:
            made, _ = trainer(case, folder, SAVED)
            first = module(case)
            made.fit(first, loader())
            made.save_checkpoint(path)
            seen = first.seen
        made, kept = trainer(case, folder)
        last = module(case, seed=int(resume))
        made.fit(last, loader(), ckpt_path=path if resume else None)
        found = Run(
            d=[*seen, *last.seen],
            logged=kept.seen,
            weights=_weights(case, made, last),
            strategy=type(made.strategy).__name__,
            wrapper=type(made.optimizers[0]).__name__,
        )
        if case.deepspeed:
            made.strategy.model.destroy()
    gc.collect()
    return found


def _weights(case: Case, made: Any, last: Any) -> list[Tensor]:
    if case.kind == "fsdp1":
        from torch.distributed.fsdp import FullyShardedDataParallel

        with FullyShardedDataParallel.summon_full_params(made.strategy.model, writeback=False):
            return [p.detach().clone() for p in last.net.parameters()]
    if case.deepspeed:
        import deepspeed

        with deepspeed.zero.GatheredParameters(list(last.net.parameters())):
            return [p.detach().clone() for p in last.net.parameters()]
    return [(p.full_tensor() if hasattr(p, "full_tensor") else p).detach().clone() for p in last.net.parameters()]


def run_and_resume(case: Case, folder: str) -> tuple[Run, Run]:
    """On every rank: the uninterrupted run, and one that was cut in the middle."""
    return run(case, folder), run(case, folder, resume=True)
