"""Deep tasks that start from random weights: images, tables, pairs."""

import functools
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from . import data, networks
from .task import Task, pick


class Digits(Task):
    """Classify noisy digits of scikit-learn with a network of two hidden layers."""

    name, steps, about = "mlp", 400, "perceptron of two hidden layers, digits with noise"

    def build(self) -> nn.Module:
        return networks.mlp(64, 64, 64, 10)

    def draw(self, random: torch.Generator) -> Sequence[Tensor]:
        x, y = pick(data.digits(), self.size, random)
        return x + 0.25 * torch.randn(x.shape, generator=random), y

    def loss(self, model: nn.Module, batch: Sequence[Tensor]) -> Tensor:
        return F.cross_entropy(model(batch[0]), batch[1])

    def evaluate(self, model: nn.Module) -> float:
        x = data.digits().held_out_x
        noise = torch.randn(4, *x.shape, generator=data.generator("mlp"))
        return float(self.loss(model, ((x + 0.25 * noise).flatten(0, 1), data.digits().held_out_y.repeat(4))))


class Images(Task):
    """Classify MNIST."""

    def examples(self) -> data.Examples:
        raise NotImplementedError

    def draw(self, random: torch.Generator) -> Sequence[Tensor]:
        return pick(self.examples(), self.size, random)

    def loss(self, model: nn.Module, batch: Sequence[Tensor]) -> Tensor:
        return F.cross_entropy(model(batch[0]), batch[1])

    def evaluate(self, model: nn.Module) -> float:
        return float(self.loss(model, (self.examples().held_out_x, self.examples().held_out_y)))


class ConvNet(Images):
    """A convolutional network with batch normalisation."""

    name, steps, about = "cnn", 400, "two convolutions with batch normalisation, MNIST 14×14"

    def build(self) -> nn.Module:
        return networks.cnn(14, normalised=True)

    def examples(self) -> data.Examples:
        return data.small_mnist(14)


class Vision(Images):
    """A vision transformer."""

    name, steps, about = "vit", 400, "transformer of two layers over 16 patches, MNIST"

    def build(self) -> nn.Module:
        return networks.VisionTransformer()

    def examples(self) -> data.Examples:
        return data.mnist()


class AutoEncoder(Task):
    """Remove noise from images through a narrow layer; binary cross-entropy a pixel."""

    name, steps, about = "autoencoder", 500, "denoising autoencoder with a code of 16, MNIST 14×14"

    def build(self) -> nn.Module:
        return networks.mlp(196, 128, 16, 128, 196)

    def draw(self, random: torch.Generator) -> Sequence[Tensor]:
        x = pick(data.small_mnist(14), self.size, random)[0].flatten(1)
        return x + 0.2 * torch.randn(x.shape, generator=random), x

    def loss(self, model: nn.Module, batch: Sequence[Tensor]) -> Tensor:
        return F.binary_cross_entropy_with_logits(model(batch[0]), batch[1])

    def evaluate(self, model: nn.Module) -> float:
        x = data.small_mnist(14).held_out_x.flatten(1)
        noise = torch.randn(x.shape, generator=data.generator("autoencoder"))
        return float(self.loss(model, (x + 0.2 * noise, x)))


class Diffusion(Task):
    """Predict the noise at a random time of a cosine schedule; the output layer starts at 0.

    Source: J. Ho et al., Denoising Diffusion Probabilistic Models, arXiv 2006.11239, algorithm 1.
    """

    name, steps, about = "diffusion", 500, "noise prediction, output initialised at 0, MNIST 14×14"

    def build(self) -> nn.Module:
        return networks.Denoiser()

    def draw(self, random: torch.Generator) -> Sequence[Tensor]:
        return _noised(pick(data.small_mnist(14), self.size, random)[0], random)

    def loss(self, model: nn.Module, batch: Sequence[Tensor]) -> Tensor:
        noisy, time, noise = batch
        return F.mse_loss(model(noisy, time), noise)

    def evaluate(self, model: nn.Module) -> float:
        return float(
            self.loss(model, _noised(data.small_mnist(14).held_out_x.repeat(4, 1, 1, 1), data.generator("diffusion")))
        )


def _noised(images: Tensor, random: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    pixels = 2 * images.flatten(1) - 1
    time = torch.rand(len(pixels), 1, generator=random)
    noise = torch.randn(pixels.shape, generator=random)
    angle = time * math.pi / 2
    return angle.cos() * pixels + angle.sin() * noise, time, noise


class Tabular(Task):
    """Regress the share of time that a processor runs user code on what the computer does."""

    name, steps, about = "tabular", 500, "perceptron of two hidden layers, regression on compactiv"

    @functools.cached_property
    def examples(self) -> data.Examples:
        return data.regression("compactiv")

    def build(self) -> nn.Module:
        return networks.mlp(self.examples.x.shape[1], 64, 64, 1)

    def draw(self, random: torch.Generator) -> Sequence[Tensor]:
        return pick(self.examples, self.size, random)

    def loss(self, model: nn.Module, batch: Sequence[Tensor]) -> Tensor:
        return F.mse_loss(model(batch[0]), batch[1])

    def evaluate(self, model: nn.Module) -> float:
        return float(self.loss(model, (self.examples.held_out_x, self.examples.held_out_y)))


class Recommendation(Task):
    """Say whether a module of the standard library uses a name."""

    name, steps, size, about = (
        "recommender",
        500,
        128,
        "embeddings of 300 modules and 1000 names of the standard library",
    )

    def build(self) -> nn.Module:
        return networks.Recommender(300, 1000)

    def draw(self, random: torch.Generator) -> Sequence[Tensor]:
        return pick(data.names_in_modules(), self.size, random)

    def loss(self, model: nn.Module, batch: Sequence[Tensor]) -> Tensor:
        return F.binary_cross_entropy_with_logits(model(batch[0]), batch[1])

    def evaluate(self, model: nn.Module) -> float:
        return float(self.loss(model, (data.names_in_modules().held_out_x, data.names_in_modules().held_out_y)))
