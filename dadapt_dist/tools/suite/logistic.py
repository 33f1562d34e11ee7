"""Twelve multiclass logistic regressions, after those of the D-Adaptation paper."""

import functools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from . import data
from .task import Task


class Logistic(Task):
    """min over W, b of mean cross-entropy + |W|²/(2n), judged by that objective on all n examples.

    Features are scaled to [-1, 1], batches have 16 examples, as in A. Defazio and K. Mishchenko, Learning-Rate-Free Learning
    by D-Adaptation, arXiv 2301.07733, appendix. The ridge keeps the optimum finite where the classes can be separated.
    """

    kind = "logistic"
    judged = "training objective"
    steps = 500
    size = 16
    rates_from = 2e-3

    @functools.cached_property
    def examples(self) -> tuple[Tensor, Tensor]:
        rows = self.rows()
        x = data.columns([row[:-1] for row in rows])
        low, high = x.amin(0), x.amax(0)
        x = x[:, high > low]
        low, high = low[high > low], high[high > low]
        return 2 * (x - low) / (high - low) - 1, data.classes([row[-1] for row in rows])

    def rows(self) -> list[list[str]]:
        raise NotImplementedError

    def build(self) -> nn.Module:
        x, y = self.examples
        return nn.Linear(x.shape[1], int(y.max()) + 1)

    def draw(self, random: torch.Generator) -> Sequence[Tensor]:
        x, y = self.examples
        at = torch.randint(len(x), (self.size,), generator=random)
        return x[at], y[at]

    def loss(self, model: nn.Module, batch: Sequence[Tensor]) -> Tensor:
        ridge = model.get_parameter("weight").square().sum() / (2 * len(self.examples[0]))
        return F.cross_entropy(model(batch[0]), batch[1]) + ridge

    def evaluate(self, model: nn.Module) -> float:
        return float(self.loss(model, self.examples))


def _task(name: str, about: str, rows: Callable[[], list[list[str]]], **more: float) -> Logistic:
    kind = type(name, (Logistic,), {"name": name, "about": about, "rows": lambda self: rows(), **more})
    task: Logistic = kind()
    return task


def _keel(name: str) -> Callable[[], list[list[str]]]:
    return functools.partial(data.keel, name)


def _mnist() -> list[list[str]]:
    images = data.small_mnist(14)
    return [[*map(str, x), str(y)] for x, y in zip(images.x.flatten(1).tolist(), images.y.tolist(), strict=True)]


# In the paper's order, which is the alphabet's.
LOGISTIC = [
    _task("libras", "movement_libras, 90 features, 15 classes, for aloi", _keel("movement_libras")),
    _task("dna", "splice, 60 letters one-hot, 3 classes", _keel("splice")),
    _task("glass", "glass, 9 features, 6 classes", data.glass),
    _task("iris", "iris, 4 features, 3 classes", functools.partial(data.scikit, "iris")),
    _task("chess", "kr-vs-k, 28056 endgames, 18 classes, for letter", _keel("kr-vs-k")),
    _task("digits", "digits, 64 features, 10 classes, for pendigits", functools.partial(data.scikit, "digits")),
    _task("segment", "segment, 19 features, 7 classes, for Sensorless", _keel("segment")),
    _task(
        "satimage",
        "satimage, 36 features, 6 classes, for smallNORB",
        functools.partial(data.spaced, "satimage", "sat.trn.txt", "sat.tst.txt"),
    ),
    _task("mnist", "4000 images of MNIST, 196 features, 10 classes, for usps", _mnist),
    _task(
        "vehicle",
        "vehicle, 18 features, 4 classes",
        functools.partial(data.spaced, "vehicle", *(f"xa{c}.dat.txt" for c in "abcdefghi")),
        rates_from=4e-3,
    ),
    _task("vowel", "vowel, 13 features, 11 classes", _keel("vowel")),
    _task("wine", "wine, 13 features, 3 classes", functools.partial(data.scikit, "wine")),
]
