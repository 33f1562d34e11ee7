"""Tiny models for the tests: float64, uneven shapes, and one global batch for every layout."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

BATCH, SEQUENCE, FEATURES = 8, 4, 6


class Tiny(nn.Module):
    """Rows that divide by no number of ranks (10), fewer rows than four ranks (3), a norm, biases and a scalar-like scale."""

    def __init__(self, seed: int = 0, dtype: torch.dtype = torch.float64, depth: int = 1) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.inp = nn.Linear(FEATURES, 8)
        self.blocks = nn.ModuleList([Block() for _ in range(depth)])
        self.head = nn.Linear(8, 3)
        self.to(dtype)

    def forward(self, x: Tensor) -> Tensor:
        x = self.inp(x)
        for block in self.blocks:
            x = block(x)
        return self.head(x)


class Block(nn.Module):
    """Norm, two linear layers, a residual: the piece that tensor parallelism cuts."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(8)
        self.up = nn.Linear(8, 10)
        self.down = nn.Linear(10, 8)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(torch.tanh(self.up(self.norm(x))))


def batch(step: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """The global batch of a step: inputs [BATCH, SEQUENCE, FEATURES] and targets [BATCH, SEQUENCE, 3]."""
    generator = torch.Generator().manual_seed(1000 + step)
    x = torch.randn(BATCH, SEQUENCE, FEATURES, generator=generator, dtype=torch.float64)
    y = torch.randn(BATCH, SEQUENCE, 3, generator=generator, dtype=torch.float64) + x[..., :3]
    return x.to(dtype), y.to(dtype)


def part(t: Tensor, rank: int, size: int) -> Tensor:
    """This data-parallel rank's share of the global batch."""
    return t.chunk(size)[rank]


def loss_of(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return ((model(x) - y) ** 2).mean()


def gradients(model: nn.Module, values: Sequence[Tensor], step: int) -> list[Tensor | None]:
    """Gradients of the one-process loss on the global batch at the given parameter values."""
    with torch.no_grad():
        for p, value in zip(model.parameters(), values, strict=True):
            p.copy_(value)
    model.zero_grad()
    loss_of(model, *batch(step)).backward()
    return [p.grad for p in model.parameters()]
