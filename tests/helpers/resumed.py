"""Optimizers that are saved and loaded, and what is compared of them."""

import copy
import io
from typing import Any

import torch
from torch import Tensor, nn

import dadapt_dist as dd

from .oracles.released import Problem
from .runs import make_ours, our_step

BEFORE, AFTER = 6, 8
TWO_GROUPS: list[dict[str, Any]] = [{"indices": [0, 3]}, {"indices": [2, 1], "lr": 0.5}]


class Run:
    """One optimizer on the noisy quadratic, at the same parameters in every `Run` that is made alike."""

    def __init__(
        self,
        key: str,
        options: dict[str, Any] | None = None,
        groups: list[dict[str, Any]] | None = None,
        *,
        dtype: torch.dtype = torch.float64,
    ) -> None:
        self.problem = Problem()
        starts = [start.to(dtype) for start in self.problem.starts]
        self.optimizer, self.xs = make_ours(key, starts, {"d0": 1e-4, **(options or {})}, groups)

    def steps(self, first: int, number: int) -> "Run":
        for step in range(first, first + number):
            gradients = self.problem.gradients(step, [x.double() for x in self.xs])
            our_step(self.optimizer, self.xs, gradients)
        return self

    def take(self, weights: list[Tensor], state_dict: dict[str, Any]) -> "Run":
        """Load a checkpoint, weights first."""
        with torch.no_grad():
            for x, weight in zip(self.xs, weights, strict=True):
                x.copy_(weight)
        self.optimizer.load_state_dict(state_dict)
        return self

    def weights(self) -> list[Tensor]:
        return [x.detach().clone() for x in self.xs]


def snapshot(optimizer: dd.LearningRateFree) -> Any:
    """Everything an optimizer holds, comparable with `same`."""
    return copy.deepcopy(optimizer.state_dict())


def same(a: Any, b: Any) -> bool:
    """Bit for bit: tensors of equal dtype and values, NaN at equal places, in equal containers."""
    if isinstance(a, Tensor):
        return (
            isinstance(b, Tensor)
            and a.dtype == b.dtype
            and torch.equal(a.isnan(), b.isnan())
            and torch.equal(a.nan_to_num(), b.nan_to_num())
        )
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, float):
        return isinstance(b, float) and a.hex() == b.hex()
    return type(a) is type(b) and a == b


def through_a_file(item: Any) -> Any:
    """Saved and read back with nothing but the types that weights_only allows."""
    file = io.BytesIO()
    torch.save(item, file)
    return torch.load(io.BytesIO(file.getvalue()), weights_only=True)


class Pair:
    """Two optimizers, one d: tensors 0 and 1 in the first, 2 and 3 in the second."""

    def __init__(self) -> None:
        self.problem = Problem()
        self.xs = [nn.Parameter(start.clone()) for start in self.problem.starts]
        step_size = dd.StepSize()
        self.optimizers = [dd.Prodigy(part, d0=1e-4, step_size=step_size) for part in (self.xs[:2], self.xs[2:])]

    def steps(self, first: int, number: int) -> None:
        for step in range(first, first + number):
            for x, gradient in zip(self.xs, self.problem.gradients(step, self.xs), strict=True):
                x.grad = gradient
            for optimizer in self.optimizers:
                optimizer.step()
