"""The plain Accelerate script that the tests run on every rank of a `WorkerPool`, and what each rank saw."""

import gc
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import dadapt_dist as dd
from dadapt_dist import log_values, schedules

from .accelerate_launch import Case, launched
from .models import BATCH, Tiny, batch

STEPS, SAVED, WARM = 8, 4, 0.25


class Net(Tiny):
    """Names its blocks as models of transformers do, for the wrapping of FSDP."""

    _no_split_modules = ("Block",)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.to(self.inp.weight.dtype))  # DeepSpeed casts the weights to bf16, not the data


class Script:
    """A user's training script: nothing in it depends on the file."""

    def __init__(self, case: Case, seed: int = 0) -> None:
        from accelerate import Accelerator
        from accelerate.utils import DummyOptim

        self.case, self.tracker = case, _tracker()
        self.accelerator = Accelerator(gradient_accumulation_steps=case.accumulation, log_with=self.tracker)
        self.accelerator.init_trackers("run")
        if case.scaled:
            self.accelerator.scaler = _scaler(case)
        model = Net(seed, case.dtype)
        if case.late:
            model = self.accelerator.prepare(model)
        data = [torch.cat(parts) for parts in zip(*[batch(i, case.dtype) for i in range(STEPS)], strict=True)]
        self.loader = DataLoader(TensorDataset(*data), batch_size=BATCH // 2 // case.accumulation)
        if case.named:
            parts: tuple[Any, ...] = model, DummyOptim(model.parameters()), self.loader
        else:
            optimizer = _optimizer(case, model)
            total = len(self.loader) // case.accumulation
            schedule = schedules.linear_decay_with_warmup(optimizer, total_steps=total, warmup=WARM)
            parts = model, optimizer, self.loader, schedule
        self.model, self.optimizer, self.loader, *rest = self.accelerator.prepare(*parts)
        self.scheduler = rest[0] if rest else None

    def train(self, start: int = 0, stop: int = STEPS) -> "Run":
        """The steps from start to stop."""
        run, step, accelerator = Run(), start, self.accelerator
        loader = accelerator.skip_first_batches(self.loader, start * self.case.accumulation)
        for x, y in loader:
            with accelerator.accumulate(self.model):
                lr = self.optimizer.param_groups[0]["lr"]
                loss = ((self.model(x).to(y.dtype) - y) ** 2).mean()
                spoil = self.case.spoiled.get(step) == accelerator.process_index
                accelerator.backward(loss * float("inf") if spoil else loss)
                self.optimizer.step()
                if self.scheduler is not None:
                    self.scheduler.step()
                self.optimizer.zero_grad()
            if accelerator.sync_gradients:
                self._note(run, lr, step)
                step += 1
                if step == stop:
                    break
        run.weights = self.weights()
        return run

    def _note(self, run: "Run", lr: float, step: int) -> None:
        run.lr.append(lr)
        run.skipped.append(self.optimizer.step_was_skipped)
        run.wrapper = type(getattr(self.optimizer, "optimizer", None)).__name__
        if self.case.optimizer != "AdamW":
            self.accelerator.log(log_values(self.optimizer), step=step)
            run.d.append(dd.base_optimizer(self.optimizer).d)
            run.logged = list(self.tracker.seen)

    def weights(self) -> list[Tensor]:
        """The model's weights, whole."""
        from torch.distributed.fsdp import FullyShardedDataParallel

        if self.case.config == "fsdp1":
            with FullyShardedDataParallel.summon_full_params(self.model, writeback=False):
                return [p.detach().clone() for p in self.model.parameters()]
        if self.case.deepspeed:
            import deepspeed

            with deepspeed.zero.GatheredParameters(list(self.model.parameters())):
                return [p.detach().clone() for p in self.model.parameters()]
        return [(p.full_tensor() if hasattr(p, "full_tensor") else p).detach().clone() for p in self.model.parameters()]

    def end(self) -> None:
        """Let go of the engine of DeepSpeed, which its registries would keep."""
        if self.case.deepspeed:
            self.model.destroy()
        self.accelerator.free_memory()


def _optimizer(case: Case, model: nn.Module) -> torch.optim.Optimizer:
    if case.optimizer == "AdamW":
        return torch.optim.AdamW(model.parameters(), lr=1e-2)
    return getattr(dd, case.optimizer)(model.parameters(), **case.options)


def _scaler(case: Case) -> Any:
    from torch.distributed.fsdp.sharded_grad_scaler import ShardedGradScaler

    if case.config == "fsdp1":
        return ShardedGradScaler("cpu", init_scale=2.0**8)
    return torch.amp.GradScaler("cpu", init_scale=2.0**8)


def _tracker() -> Any:
    """A tracker of a user's, which keeps what it is given."""
    from accelerate.tracking import GeneralTracker, on_main_process

    class Kept(GeneralTracker):
        name, requires_logging_directory, main_process_only = "kept", False, True

        def __init__(self) -> None:
            super().__init__()
            self.seen: list[tuple[int, dict[str, float]]] = []

        @property
        def tracker(self) -> Any:
            return self.seen

        @on_main_process
        def log(self, values: dict[str, float], step: int, **_: Any) -> None:
            self.seen.append((step, values))

    return Kept()


@dataclass
class Run:
    """What one rank saw of some steps."""

    d: list[float] = field(default_factory=list)
    lr: list[float] = field(default_factory=list)
    skipped: list[bool] = field(default_factory=list)
    weights: list[Tensor] = field(default_factory=list)
    logged: list[tuple[int, dict[str, float]]] = field(default_factory=list)
    wrapper: str = ""

    @property
    def bits(self) -> list[str]:
        return [d.hex() for d in self.d]


@dataclass
class Runs:
    """The first steps; the last ones after save_state; again after load_state; and after load_state into another model."""

    first: Run
    last: Run
    again: Run | None = None
    resumed: Run | None = None

    @property
    def d(self) -> list[float]:
        return self.first.d + self.last.d

    @property
    def lr(self) -> list[float]:
        return self.first.lr + self.last.lr

    @property
    def skipped(self) -> list[bool]:
        return self.first.skipped + self.last.skipped


def train(case: Case, folder: str | None = None) -> Runs:
    """On every rank: run the script; with a folder, save in the middle, go on, load and go on again, twice."""
    with launched(case):
        script = Script(case)
        first = script.train(0, SAVED)
        if folder:
            script.accelerator.save_state(folder)
        runs = Runs(first, script.train(SAVED))
        if folder:
            script.accelerator.load_state(folder)
            runs.again = script.train(SAVED)
        script.end()
    if folder:
        with launched(case):
            script = Script(case, seed=1)
            script.accelerator.load_state(folder)
            runs.resumed = script.train(SAVED)
            script.end()
    gc.collect()
    return runs


def attempt(case: Case, folder: str | None = None) -> Runs | str:
    """On every rank: as `train`, or what the ValueError says that it raises."""
    try:
        return train(case, folder)
    except ValueError as error:
        return str(error)


def train_all(cases: Sequence[Case], folder: str | None = None) -> list[Runs]:
    """On every rank: one case after the other, each with a folder of its own."""
    return [train(case, f"{folder}/{i}" if folder else None) for i, case in enumerate(cases)]
