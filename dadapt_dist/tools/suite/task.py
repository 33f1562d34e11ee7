"""What a task of the suite is: a model, batches, a loss and a judgement, each a pure function of its arguments."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor, nn

from .data import Examples, generator

POINTS = 9  # learning rates of AdamW's grid
# On every task besides: the single best rate is chosen among those that all tasks have.
ON_ALL = tuple(1e-3 * 2**i for i in range(6))


class Task:
    """A model to be trained on real data; subclasses say `build`, `draw`, `loss` and `evaluate`.

    name: as on the command line. steps: usual length of a run. size: examples of a batch. rates_from: the lowest of
    AdamW's nine learning rates at the usual length, each twice the one before.
    """

    name: ClassVar[str]
    kind: ClassVar[str] = "deep"
    judged: ClassVar[str] = "held-out loss"
    about: ClassVar[str]
    steps: ClassVar[int]
    size: ClassVar[int] = 32
    rates_from: ClassVar[float] = 2.5e-4

    def prepare(self, folder: Path) -> None:
        """Make, or read from `folder`, what training starts from. Most tasks start from nothing."""

    def model(self, seed: int) -> nn.Module:
        """A new model, float32; what is trained has requires_grad."""
        with torch.random.fork_rng(devices=[]):
            torch.random.manual_seed(generator(self.name, "model", seed).initial_seed())
            return self.build()

    def batch(self, seed: int, step: int) -> Sequence[Tensor]:
        """Examples of step 1, 2, ..., what `loss` takes."""
        return self.draw(generator(self.name, "batch", seed, step))

    def build(self) -> nn.Module:
        raise NotImplementedError

    def draw(self, random: torch.Generator) -> Sequence[Tensor]:
        raise NotImplementedError

    def loss(self, model: nn.Module, batch: Sequence[Tensor]) -> Tensor:
        """Mean loss of a batch, a scalar."""
        raise NotImplementedError

    def evaluate(self, model: nn.Module) -> float:
        """The loss by which a trained model is judged; lower is better."""
        raise NotImplementedError


def pick(examples: Examples, size: int, random: torch.Generator) -> tuple[Tensor, Tensor]:
    """Training examples drawn with replacement."""
    at = torch.randint(len(examples.x), (size,), generator=random)
    return examples.x[at], examples.y[at]


def rates(task: Task, steps: int) -> list[float]:
    """AdamW's learning rates for a run of `steps`: nine, each twice the one before, and those of ON_ALL.

    The best rate falls about as 1/√steps: the nine move down a place for about four times the usual length, and up a place
    for a quarter of it.
    """
    places = round(math.log2(task.steps / steps) / 2)
    lowest = task.rates_from * 2.0**places
    return sorted({*(lowest * 2**i for i in range(POINTS)), *ON_ALL})
