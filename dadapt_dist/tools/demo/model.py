"""The demo's model: a small byte-level transformer in plain torch, without any sharding."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

VOCABULARY = 256  # bytes


@dataclass(frozen=True, kw_only=True)
class Size:
    """Shape of the model. context: bytes it sees at once. heads must divide dim."""

    dim: int
    layers: int
    heads: int
    context: int


SIZES = {
    "medium": Size(dim=256, layers=4, heads=4, context=64),
    "small": Size(dim=128, layers=4, heads=4, context=64),
    "tiny": Size(dim=32, layers=2, heads=4, context=32),
}


class Attention(nn.Module):
    """Causal self-attention with rotary positions; [batch, time, dim] to the same."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.head_dim = size.dim // size.heads
        self.wq = nn.Linear(size.dim, size.dim, bias=False)
        self.wk = nn.Linear(size.dim, size.dim, bias=False)
        self.wv = nn.Linear(size.dim, size.dim, bias=False)
        self.wo = nn.Linear(size.dim, size.dim, bias=False)

    def forward(self, x: Tensor, turn: Tensor) -> Tensor:
        # -1 heads, not `heads`: under tensor parallelism a rank holds only some of them.
        q, k, v = (w(x).unflatten(-1, (-1, self.head_dim)).transpose(1, 2) for w in (self.wq, self.wk, self.wv))
        heads = F.scaled_dot_product_attention(rotate(q, turn), rotate(k, turn), v, is_causal=True)
        y: Tensor = self.wo(heads.transpose(1, 2).flatten(2))
        return y


class MLP(nn.Module):
    """Two linear maps with a GELU between, four times as wide inside."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.up = nn.Linear(size.dim, 4 * size.dim, bias=False)
        self.down = nn.Linear(4 * size.dim, size.dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.down(F.gelu(self.up(x)))
        return y


class Block(nn.Module):
    """One layer: attention and MLP, each normalised before and added to its input."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.attention_norm = nn.RMSNorm(size.dim)
        self.attention = Attention(size)
        self.mlp_norm = nn.RMSNorm(size.dim)
        self.mlp = MLP(size)

    def forward(self, x: Tensor, turn: Tensor) -> Tensor:
        x = x + self.attention(self.attention_norm(x), turn)
        y: Tensor = x + self.mlp(self.mlp_norm(x))
        return y


class ByteModel(nn.Module):
    """Predicts the next byte: int64 [batch, time] to float logits [batch, time, 256]."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.size = size
        self.embedding = nn.Embedding(VOCABULARY, size.dim)
        self.blocks = nn.ModuleList(Block(size) for _ in range(size.layers))
        self.norm = nn.RMSNorm(size.dim)
        self.head = nn.Linear(size.dim, VOCABULARY, bias=False)
        self._initialise()

    def _initialise(self) -> None:
        for name, p in self.named_parameters():
            if p.ndim == 2:  # what ends a residual branch starts smaller: depth must not raise the variance
                ends_branch = name.endswith(("wo.weight", "down.weight"))
                nn.init.normal_(p, std=0.02 / (2 * self.size.layers) ** 0.5 if ends_branch else 0.02)

    def forward(self, tokens: Tensor) -> Tensor:
        turn = turns(tokens.shape[1], self.size.dim // self.size.heads, tokens.device)
        x = self.embedding(tokens)
        for block in self.blocks:
            x = block(x, turn)
        logits: Tensor = self.head(self.norm(x))
        return logits


def turns(time: int, head_dim: int, device: torch.device) -> Tensor:
    """Rotary angles as (cos, sin): float32 [2, time, head_dim/2]. Source: J. Su et al., RoFormer, arXiv 2104.09864."""
    rates = 10000.0 ** -(torch.arange(0, head_dim, 2, device=device) / head_dim)
    angles = torch.arange(time, device=device)[:, None] * rates
    return torch.stack([angles.cos(), angles.sin()])


def rotate(x: Tensor, turn: Tensor) -> Tensor:
    """Turn the pairs (x_i, x_{i + head_dim/2}) of [..., time, head_dim] by their position's angles."""
    (a, b), (cos, sin) = x.chunk(2, dim=-1), turn
    return torch.cat([a * cos - b * sin, a * sin + b * cos], dim=-1)
