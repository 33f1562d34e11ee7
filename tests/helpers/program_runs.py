"""A small training for programs that people train in, d of a plain loop over it, and whether a program is installed."""

import importlib.util
import re
import sys
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import dadapt_dist as dd

from .models import Tiny, batch, loss_of

ROOT = Path(__file__).parents[2]
STEPS = 8
OPTIONS: dict[str, Any] = {"d0": 1e-4, "d_coef": 1.5, "betas": (0.9, 0.995)}
# Programs sum in another order, or print d with fewer digits; the same order gives the same bits.
NEARLY: dict[str, float] = {"rel": 1e-5}


def needs(*packages: str) -> pytest.MarkDecorator:
    """Skip a test whose programs, by the names of their packages, are not all installed."""
    missing = [package for package in packages if importlib.util.find_spec(package) is None]
    return pytest.mark.skipif(bool(missing), reason=f"{', '.join(missing)}: not installed (make test-programs)")


def small() -> Tiny:
    """The same weights at each call, in float32, which every program takes."""
    return Tiny(0, torch.float32)


def data(step: int) -> tuple[torch.Tensor, torch.Tensor]:
    return batch(step, torch.float32)


def rows(steps: int = STEPS) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """The batches as a dataset of rows, in their order: a loader that does not shuffle makes the batches of them again."""
    return [pair for step in range(steps) for pair in zip(*data(step), strict=True)]


def train(model: nn.Module, optimizer: Any, steps: Iterable[int] = range(STEPS)) -> None:
    """As a plain loop does it."""
    for step in steps:
        optimizer.zero_grad()
        loss_of(model, *data(step)).backward()
        optimizer.step()


@cache
def plain(steps: int = STEPS) -> float:
    """d after a plain loop with OPTIONS; it has left d0 by far, so that a program that trained with another d shows."""
    model = small()
    optimizer = dd.Prodigy(model.parameters(), **OPTIONS)
    train(model, optimizer, range(steps))
    assert optimizer.d > 10 * OPTIONS["d0"]
    return float(optimizer.d)


def page_code(page: str, word: str, **names: Any) -> dict[str, Any]:
    """What the python block of a page that has a word defines; `names` are there before it runs."""
    text = (ROOT / "docs" / page).read_text()
    (code,) = (block for block in re.findall(r"^```python[^\n]*\n(.*?)^```$", text, re.M | re.S) if word in block)
    exec(compile(code, page, "exec"), names)
    return names


def apart_folder() -> Path | None:
    """Where torchvision is, for those that cannot do without: others import it if they find it, and it may not load."""
    return next((Path(folder, "apart") for folder in sys.path if Path(folder, "apart", "torchvision").is_dir()), None)


@cache
def import_torchvision() -> None:
    """Import torchvision, which timm and composer need, also beside a torch for CPUs.

    Its wheels have operators for CUDA, which do not load there, and its import stops at the two that it describes to torch.
    Nothing here calls them: naming them is enough.
    """
    sys.path.append(str(apart_folder()))
    if torch.version.cuda is None:
        for name in ("nms", "qnms"):
            torch.library.define(f"torchvision::{name}", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    importlib.import_module("torchvision")
