"""Cases of DeepSpeed on two ranks: ZeRO stages 0 to 3, precisions, accumulation, clipping, and its checkpoints."""

import logging
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from .single import Case
from .trace import METHODS, Trace, hexed

LATE = "zero-dadapt-sgd"
OPTIONS: dict[str, dict[str, Any]] = {
    "prodigy": {"d_coef": 2.0, "use_bias_correction": True},
    "dadapt_sgd": {"momentum": 0.9},
    "dadapt_adam": {},
}
CONFIGS: dict[str, tuple[int, dict[str, Any]]] = {
    "stage 0": (0, {}),
    "stage 1": (1, {}),
    "stage 2": (2, {}),
    "stage 3": (3, {}),
    "stage 1 bf16": (1, {"bf16": {"enabled": True}}),
    "stage 2 bf16 clipped": (2, {"bf16": {"enabled": True}, "gradient_clipping": 0.5}),
    "stage 3 bf16 accumulated": (3, {"bf16": {"enabled": True}, "gradient_accumulation_steps": 2}),
    "stage 2 fp16": (2, {"fp16": {"enabled": True, "initial_scale_power": 8, "hysteresis": 1}}),
}


class Odd(nn.Module):
    """Tensors of odd sizes: whatever cuts them in two pads."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.inp, self.norm, self.mid, self.head = nn.Linear(5, 7), nn.LayerNorm(7), nn.Linear(7, 9), nn.Linear(9, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.mid(self.norm(torch.tanh(self.inp(x))))))


def deepspeed() -> Any:
    """DeepSpeed, quiet, without a build, and with fp16 on CPUs."""
    import deepspeed
    from deepspeed.accelerator import get_accelerator

    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    deepspeed.utils.logger.setLevel(logging.ERROR)
    get_accelerator().is_fp16_supported = lambda: True
    return deepspeed


class Engine:
    """An engine whose optimizer comes from the JSON by its name, over three groups; a context manager."""

    def __init__(self, config: str, method: str) -> None:
        self.stage, more = CONFIGS[config]
        self.model = Odd()
        self.pieces = more.get("gradient_accumulation_steps", 1)
        params = [*self.model.parameters()]
        groups = [
            {"params": [p for p in params[:-2] if p.dim() == 2], "weight_decay": 0.2},
            {"params": [p for p in params[:-2] if p.dim() == 1], "weight_decay": 0.0},
            {"params": params[-2:], "weight_decay": 0.1},
        ]
        zero: dict[str, Any] = {"stage": self.stage, "reduce_bucket_size": 10_000}
        if self.stage == 3:
            zero |= {"stage3_param_persistence_threshold": 0, "sub_group_size": 40}
        options = {"d0": 1e-2, **OPTIONS[method]}
        whole = {
            "train_micro_batch_size_per_gpu": 12 // dist.get_world_size() // self.pieces,
            "gradient_accumulation_steps": 1,
            "steps_per_print": 10**9,
            "zero_force_ds_cpu_optimizer": False,
            "zero_optimization": zero,
            "optimizer": {"type": METHODS[method].__name__, "params": options},
        }
        self.engine, *_ = deepspeed().initialize(model=self.model, model_parameters=groups, config={**whole, **more})
        self.optimizer = self.engine.basic_optimizer

    def step(self, step: int) -> None:
        generator = torch.Generator().manual_seed(2000 + step)
        x = torch.randn(12, 5, generator=generator) * (1 + step % 3)
        y = torch.tanh(x[:, :3]) + 0.1 * torch.randn(12, 3, generator=generator)
        rank, size = dist.get_rank(), dist.get_world_size()
        dtype = next(self.model.parameters()).dtype
        n = 12 // size // self.pieces
        for piece in range(self.pieces):
            at = slice((piece * size + rank) * n, (piece * size + rank + 1) * n)
            self.engine.backward(((self.engine(x[at].to(dtype)).float() - y[at]) ** 2).mean())
            self.engine.step()

    def weights(self) -> list[Tensor]:
        """The model's weights, whole."""
        import deepspeed

        params = [*self.model.parameters()]
        with deepspeed.zero.GatheredParameters(params, enabled=self.stage == 3):
            return [p.detach().clone() for p in params]

    def __enter__(self) -> "Engine":
        return self

    def __exit__(self, *_: object) -> None:
        self.engine.destroy()
        self.engine.basic_optimizer = None


def end(trace: Trace, running: Engine) -> None:
    """As `Trace.end`, but buffers may have padding that nobody has written."""
    trace.end(running.weights(), running.optimizer)
    del trace.rest["buffers"]


def train(trace: Trace, config: str, method: str, first: int = 0, steps: int = 6) -> None:
    with Engine(config, method) as running:
        for step in range(first, first + steps):
            running.step(step)
            trace.step(running.weights(), running.optimizer)
            trace.rest.setdefault("skipped", []).append(hexed(running.engine.skipped_steps))
        end(trace, running)


def save(trace: Trace, config: str, method: str) -> None:
    with Engine(config, method) as running:
        for step in range(4):
            running.step(step)
            trace.step(running.weights())
        running.engine.save_checkpoint(trace.path(f"deepspeed_{config}_{method}"))
        for step in range(4, 8):
            running.step(step)
            trace.step(running.weights(), running.optimizer)
        end(trace, running)


def load(trace: Trace, config: str, method: str) -> None:
    with Engine(config, method) as running:
        running.engine.load_checkpoint(trace.path(f"deepspeed_{config}_{method}", load=True))
        for step in range(4, 8):
            running.step(step)
            trace.step(running.weights(), running.optimizer)
        end(trace, running)


def cases() -> Iterator[tuple[str, Case]]:
    for config in CONFIGS:
        for method in OPTIONS:
            yield f"zero/{config}/{method}", partial(train, config=config, method=method)
    for config in ("stage 1", "stage 2", "stage 3"):
        for method in OPTIONS:
            yield f"save/zero/{config}/{method}", partial(save, config=config, method=method)
            yield f"load/zero/{config}/{method}", partial(load, config=config, method=method)


def tags(name: str) -> list[str]:
    """D-Adapt SGD where DeepSpeed brings a step in pieces, with which the norm of the first gradient may come later."""
    return [LATE] if "zero/" in name and "dadapt_sgd" in name else []
