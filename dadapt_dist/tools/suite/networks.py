"""Networks of the deep tasks, of ordinary torch modules."""

import itertools
import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

IMAGE, PATCH, DIM = 28, 7, 32
_SIDE = IMAGE // PATCH


def mlp(*sizes: int, activation: type[nn.Module] = nn.ReLU) -> nn.Sequential:
    """Linear layers of these widths with `activation` between them."""
    layers: list[nn.Module] = []
    for before, after in itertools.pairwise(sizes):
        layers += [nn.Linear(before, after), activation()]
    return nn.Sequential(*layers[:-1])


def cnn(side: int, *, normalised: bool) -> nn.Sequential:
    """Two convolutions of stride 2 and a linear layer: [n, 1, side, side] to 10 logits."""
    last = math.ceil(math.ceil(side / 2) / 2)
    norms = [nn.BatchNorm2d(12), nn.BatchNorm2d(24)] if normalised else [nn.Identity(), nn.Identity()]
    return nn.Sequential(
        nn.Conv2d(1, 12, 3, stride=2, padding=1),
        norms[0],
        nn.ReLU(),
        nn.Conv2d(12, 24, 3, stride=2, padding=1),
        norms[1],
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(24 * last**2, 10),
    )


class VisionTransformer(nn.Module):
    """[n, 1, 28, 28] to 10 logits: 16 patches, two layers before-normalised, mean over the patches."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, DIM, PATCH, stride=PATCH)
        self.positions = nn.Parameter(torch.randn(_SIDE**2, DIM) * 0.02)
        layer = nn.TransformerEncoderLayer(DIM, 2, 2 * DIM, 0.0, "gelu", batch_first=True, norm_first=True)
        self.blocks = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.norm, self.head = nn.LayerNorm(DIM), nn.Linear(DIM, 10)

    def forward(self, images: Tensor) -> Tensor:
        x = self.patches(images).flatten(2).transpose(1, 2) + self.positions
        logits: Tensor = self.head(self.norm(self.blocks(x)).mean(1))
        return logits


class ByteGRU(nn.Module):
    """Predicts the next byte: int64 [batch, time] to logits [batch, time, 128]; bytes above 127 count as 127."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.embedding = nn.Embedding(128, width)
        self.cells = nn.GRU(width, width, batch_first=True)
        self.head = nn.Linear(width, 128)

    def forward(self, tokens: Tensor) -> Tensor:
        logits: Tensor = self.head(self.cells(self.embedding(tokens))[0])
        return logits


class Denoiser(nn.Module):
    """Predicts the noise in pixels [n, 196] at times [n, 1] in [0, 1]; the last layer starts at 0, as is usual."""

    def __init__(self, pixels: int = 196, width: int = 192) -> None:
        super().__init__()
        self.body = mlp(pixels + 8, width, width, width, pixels, activation=nn.SiLU)
        last = self.body[-1]
        for p in last.parameters():
            nn.init.zeros_(p)

    def forward(self, noisy: Tensor, time: Tensor) -> Tensor:
        angles = time * 2 ** torch.arange(4, dtype=noisy.dtype)
        predicted: Tensor = self.body(torch.cat([noisy, angles.sin(), angles.cos()], dim=1))
        return predicted


class Recommender(nn.Module):
    """Embeddings of a user and an item, their product and a network over both: int64 pairs [n, 2] to logits [n]."""

    def __init__(self, users: int, items: int, width: int = 16) -> None:
        super().__init__()
        self.users, self.items = nn.Embedding(users, width), nn.Embedding(items, width)
        for table in (self.users, self.items):
            nn.init.normal_(table.weight, std=0.1)
        self.bias = nn.Embedding(items, 1)
        nn.init.zeros_(self.bias.weight)
        self.top = mlp(2 * width, 32, 1)

    def forward(self, pairs: Tensor) -> Tensor:
        user, item = self.users(pairs[:, 0]), self.items(pairs[:, 1])
        together = (user * item).sum(1) + self.bias(pairs[:, 1])[:, 0]
        logits: Tensor = together + self.top(torch.cat([user, item], dim=1))[:, 0]
        return logits


class LowRank(nn.Module):
    """A frozen linear layer W plus a trained B·A of rank r; B starts at 0.

    Source: E. Hu et al., LoRA, arXiv 2106.09685.
    """

    def __init__(self, frozen: nn.Linear, rank: int = 4) -> None:
        super().__init__()
        self.frozen = frozen.requires_grad_(False)
        self.a = nn.Parameter(torch.empty(rank, frozen.in_features))
        self.b = nn.Parameter(torch.zeros(frozen.out_features, rank))
        nn.init.kaiming_uniform_(self.a, a=5**0.5)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.frozen(x) + F.linear(F.linear(x, self.a), self.b)
        return y


def with_low_rank(model: nn.Module) -> nn.Module:
    """Freeze `model` and put a `LowRank` in the place of each of its linear layers but the head."""
    model.requires_grad_(False)
    linear = [(name, layer) for name, layer in model.named_modules() if isinstance(layer, nn.Linear) and name != "head"]
    for name, layer in linear:
        parent, _, last = name.rpartition(".")
        setattr(model.get_submodule(parent), last, LowRank(layer))
    return model
