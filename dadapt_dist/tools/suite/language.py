"""Deep tasks on bytes, from random weights and from a trained base, and a fine-tuned image classifier."""

import functools
import os
import sysconfig
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...schedules import linear_decay_with_warmup
from ..demo.model import ByteModel, Size
from ..demo.text import load_text
from . import data, networks
from .deep import Images
from .task import Task

CONTEXT = 32
BASE_STEPS = 4000
SIZE = Size(dim=48, layers=2, heads=4, context=CONTEXT)


@functools.cache
def code() -> tuple[Tensor, Tensor]:
    """Bytes of the standard library's sources to learn and to be judged on; uint8."""
    text = load_text(None, CONTEXT)
    return text.train, text.held_out


@functools.cache
def one_package(name: str = "asyncio") -> tuple[Tensor, Tensor]:
    """Bytes of one package of the standard library; uint8."""
    text = load_text(str(Path(sysconfig.get_paths()["stdlib"]) / name), CONTEXT)
    return text.train, text.held_out


class Bytes(Task):
    """Predict the next byte of a text; judged on 256 windows of its last twentieth."""

    size = 16

    def text(self) -> tuple[Tensor, Tensor]:
        raise NotImplementedError

    def draw(self, random: torch.Generator) -> Sequence[Tensor]:
        text = self.text()[0]
        return (_windows(text, torch.randint(len(text) - CONTEXT, (self.size,), generator=random)),)

    def loss(self, model: nn.Module, batch: Sequence[Tensor]) -> Tensor:
        (tokens,) = batch
        return F.cross_entropy(model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())

    def evaluate(self, model: nn.Module) -> float:
        text = self.text()[1]
        windows = _windows(text, torch.linspace(0, len(text) - CONTEXT - 1, 256).long())
        return float(self.loss(model, (windows,)))


def _windows(text: Tensor, starts: Tensor) -> Tensor:
    return text[starts[:, None] + torch.arange(CONTEXT + 1)].long().clamp_max(127)


class Transformer(Bytes):
    """The demo's model, smaller, on Python code."""

    name, steps, about = "transformer", 500, "byte transformer of two layers, Python code"

    def text(self) -> tuple[Tensor, Tensor]:
        return code()

    def build(self) -> nn.Module:
        return ByteModel(SIZE)


class Recurrent(Bytes):
    """A GRU on English prose."""

    name, steps, about = "gru", 400, "GRU over bytes, English prose"

    def text(self) -> tuple[Tensor, Tensor]:
        return data.prose()

    def build(self) -> nn.Module:
        return networks.ByteGRU()


class Based(Task):
    """Training that starts from a base: a model trained until it hardly improves, once for a folder of results."""

    base_name: ClassVar[str]
    base: dict[str, Tensor]

    def base_task(self) -> Task:
        """The task that the base learned."""
        raise NotImplementedError

    def prepare(self, folder: Path) -> None:
        path = folder / f"base-{self.base_name}.pt"
        if not path.exists():
            folder.mkdir(parents=True, exist_ok=True)
            part = folder / f"base-{self.base_name}.{os.getpid()}.part"
            torch.save(_train_base(self.base_task()), part)
            os.replace(part, path)
        self.base = torch.load(path, weights_only=True)


def _train_base(task: Task) -> dict[str, Tensor]:
    model = task.model(0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3, weight_decay=0.0, fused=True)
    scheduler = linear_decay_with_warmup(optimizer, BASE_STEPS)
    for step in range(1, BASE_STEPS + 1):
        optimizer.zero_grad()
        task.loss(model, task.batch(0, step)).backward()
        optimizer.step()
        scheduler.step()
    return model.state_dict()


class FineTune(Based, Bytes):
    """All weights of a byte transformer that has learned code, on the code of one package."""

    name, steps, rates_from = "finetune", 300, 3.125e-5
    size = 2
    about = "that transformer after 4000 steps, all weights, batches of 2, asyncio"
    base_name = "transformer"

    def base_task(self) -> Task:
        return Transformer()

    def text(self) -> tuple[Tensor, Tensor]:
        return one_package()

    def build(self) -> nn.Module:
        model = ByteModel(SIZE)
        model.load_state_dict(self.base)
        return model


class LowRank(FineTune):
    """Low-rank additions to a byte transformer that has learned code, on prose."""

    name, steps, rates_from = "lora", 400, 5e-4
    size = 16
    about = "the same base, LoRA of rank 4 with B = 0, English prose"

    def text(self) -> tuple[Tensor, Tensor]:
        return data.prose()

    def build(self) -> nn.Module:
        return networks.with_low_rank(super().build())


class _Base8(Images):
    """The base of `FineTuneImages`: MNIST without its margin, 8×8."""

    name, steps = "base8", 4000

    def build(self) -> nn.Module:
        return networks.cnn(8, normalised=False)

    def examples(self) -> data.Examples:
        return _pixels_8(data.mnist())


@functools.cache
def _pixels_8(images: data.Examples) -> data.Examples:
    """The middle 20×20 of MNIST, or digits that are 8×8 as they are; with standard deviation 1."""

    def small(x: Tensor) -> Tensor:
        return F.adaptive_avg_pool2d(x[..., 4:24, 4:24], 8) if x.ndim == 4 else x.view(-1, 1, 8, 8)

    x, held_out = small(images.x), small(images.held_out_x)
    return data.Examples(x / x.std(), images.y, held_out / x.std(), images.held_out_y)


class FineTuneImages(Based, _Base8):
    """All weights of a convolutional network that has learned MNIST, on 200 of the digits of scikit-learn."""

    name, steps, size = "finetune-cnn", 300, 16
    about = "a CNN after 4000 steps on MNIST 8×8, all weights, 200 digits"
    base_name = "cnn"

    def base_task(self) -> Task:
        return _Base8()

    def build(self) -> nn.Module:
        model = super().build()
        model.load_state_dict(self.base)
        return model

    def examples(self) -> data.Examples:
        return _pixels_8(data.digits())

    def draw(self, random: torch.Generator) -> Sequence[Tensor]:
        few = self.examples()
        at = torch.randint(200, (self.size,), generator=random)
        return few.x[at], few.y[at]
