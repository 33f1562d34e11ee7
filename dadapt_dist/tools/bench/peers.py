"""Optimizers that a step is compared with, where they are installed."""

import contextlib
import importlib.util
import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from ... import optimizers
from ...checkpoint.from_released import RELEASED

OURS: dict[str, Any] = optimizers.classes()


@dataclass(frozen=True)
class Peer:
    """An optimizer: its name, the package to install, and how it is made from parameters. slow: minutes to build, for the CPU."""

    name: str
    package: str
    make: Callable[[Any], Any]
    slow: bool = False

    @property
    def is_installed(self) -> bool:
        return importlib.util.find_spec(self.package.split(" ")[-1].strip("()").replace("-", "_")) is not None


def _of(module: str, name: str, **options: Any) -> Callable[[Any], Any]:
    def make(params: Any) -> Any:
        with contextlib.redirect_stdout(io.StringIO()):  # some of them greet
            return getattr(importlib.import_module(module), name)(params, **options)

    return make


ADAMW = [
    Peer("AdamW fused", "torch", lambda p: torch.optim.AdamW(p, fused=True)),
    Peer("AdamW foreach", "torch", lambda p: torch.optim.AdamW(p, foreach=True)),
    Peer("AdamW for loop", "torch", lambda p: torch.optim.AdamW(p, foreach=False)),
]
PRODIGY = [
    Peer("prodigyopt", "prodigyopt", _of("prodigyopt", "Prodigy")),
    Peer("pytorch_optimizer Prodigy", "pytorch-optimizer (pytorch_optimizer)", _of("pytorch_optimizer", "Prodigy")),
    Peer(
        "prodigy-plus-schedule-free",
        "prodigy-plus-schedule-free (prodigyplus)",
        _of("prodigyplus.prodigy_plus_schedulefree", "ProdigyPlusScheduleFree"),
    ),
    Peer("DeepSpeedCPUAdam", "deepspeed", _of("deepspeed.ops.adam", "DeepSpeedCPUAdam"), slow=True),
]


def _schedule_free(params: Any) -> Any:
    optimizer = importlib.import_module("schedulefree").AdamWScheduleFree(params)
    optimizer.train()  # else it refuses to step
    return optimizer


SCHEDULE_FREE = [Peer("schedulefree AdamW", "schedulefree", _schedule_free)]


def peers_of(method: str) -> list[Peer]:
    """What one of our methods is measured against."""
    if method == "prodigy":
        return [*ADAMW, *PRODIGY]
    if method == "schedule_free_adamw":
        return [*ADAMW, *SCHEDULE_FREE]
    if method not in RELEASED:
        return ADAMW
    package, name = RELEASED[method].title.split(".")
    return [*ADAMW, Peer(f"{package} {name}", package, _of(package, name))]
