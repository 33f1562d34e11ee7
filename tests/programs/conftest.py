"""A process of its own for the programs of a test module: they set warnings, registries and random numbers of their process."""

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest
import torch

LIMIT = 240.0  # seconds; the first call also imports the program


def _in_folder(folder: str, function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    os.chdir(folder)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    return function(*arguments)


@pytest.fixture(scope="module")
def _process() -> Iterator[ProcessPoolExecutor]:
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        yield pool


@pytest.fixture
def apart(_process: ProcessPoolExecutor, tmp_path: Path) -> Callable[..., Any]:
    """`apart(function, *arguments)`: its result, from a process without pytest and a process group, in a folder of the test."""

    def run(function: Callable[..., Any], *arguments: Any) -> Any:
        return _process.submit(_in_folder, str(tmp_path), function, arguments).result(timeout=LIMIT)

    return run
