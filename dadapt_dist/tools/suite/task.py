"""What a task of the suite is: a model, batches, a loss and a judgement, each a pure function of its arguments."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from .data import Examples, generator

POINTS = 9  # learning rates of AdamW's grid
# On every task besides: the single best rate is chosen among those that all tasks have.
ON_ALL = tuple(1e-3 * 2**i for i in range(6))
# A run of the suite whose loss is not finite, or larger, counts with this loss.
LARGEST_LOSS = 99.0


@dataclass(frozen=True)
class Problem:
    """A task as one run meets it.

    model: new. batch: of step 1, 2, ..., to be asked for in this order, once each. loss: mean loss of a batch, a scalar.
    evaluate: the loss by which the trained model is judged; lower is better.
    """

    model: nn.Module
    batch: Callable[[int], Any]
    loss: Callable[[nn.Module, Any], Tensor]
    evaluate: Callable[[nn.Module], float]


class Task:
    """A model to be trained on real data; subclasses say `build`, `draw`, `loss` and `evaluate`.

    name: as on the command line. steps: usual length of a run. size: examples of a batch. rates_from: the lowest of
    AdamW's nine learning rates at the usual length, each twice the one before. largest: the loss with which a run counts that
    diverged, or whose loss is larger.
    """

    name: ClassVar[str]
    kind: ClassVar[str] = "deep"
    judged: ClassVar[str] = "held-out loss"
    about: ClassVar[str]
    steps: ClassVar[int]
    size: ClassVar[int] = 32
    rates_from: ClassVar[float] = 2.5e-4
    largest: ClassVar[float] = LARGEST_LOSS

    def prepare(self, folder: Path) -> None:
        """Make, or read from `folder`, what training starts from. Most tasks start from nothing."""

    def begin(self, seed: int) -> Problem:
        """What a run with this seed trains. It may seed torch's generator."""
        return Problem(self.model(seed), lambda step: self.batch(seed, step), self.loss, self.evaluate)

    def check(self) -> None:
        """Raise for what no run could do, such as data that are missing."""
        self.batch(0, 1)

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
