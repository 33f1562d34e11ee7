"""Named tensors that ranks hold parts of, and the run of one process that holds all of them."""

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

import dadapt_dist as dd

from .oracles import ORACLES

STEPS = 6


def tensor(name: str, *shape: int, step: int = -1) -> Tensor:
    """The whole tensor of a name, or its gradient at a step (mostly the same direction): the same on every rank."""
    generator = torch.Generator().manual_seed(sum(map(ord, name)) * 1000)
    value = torch.randn(shape, generator=generator, dtype=torch.float64)
    if step < 0:
        return value
    generator.manual_seed(sum(map(ord, name)) * 1000 + step + 1)
    return value + 0.3 * torch.randn(shape, generator=generator, dtype=torch.float64)


def expected(shapes: dict[str, tuple[int, ...]]) -> tuple[float, list[Tensor]]:
    """d and parameters of one process that holds every whole tensor."""
    oracle = ORACLES["dadapt_sgd"]([tensor(name, *shape) for name, shape in shapes.items()], d0=1e-3)
    for step in range(STEPS):
        oracle.step([tensor(name, *shape, step=step) for name, shape in shapes.items()])
    assert oracle.d > 1.5e-3, "d never moved: the comparison would be empty"
    return oracle.d, oracle.params


def train(params: dict[str, nn.Parameter], gradient: Callable[[str, int], Tensor], **options: Any) -> float:
    """D-Adapt SGD: a wrong count of copies does not cancel in its square root."""
    named = options.pop("named", False)
    optimizer = dd.DAdaptSGD(params.items() if named else params.values(), d0=1e-3, **options)
    for step in range(STEPS):
        for name, p in params.items():
            p.grad = gradient(name, step)
        optimizer.step()
    return optimizer.d


def message(fn: Callable[..., Any], *args: Any, **options: Any) -> str:
    """The PlacementError that fn raises on this rank, and proof that the process group still works."""
    try:
        fn(*args, **options)
    except dd.PlacementError as error:
        dist.barrier()
        return str(error)
    return "nothing was raised"
