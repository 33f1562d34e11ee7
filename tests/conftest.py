"""Fixtures of all tests: worker pools of 2 and 4 ranks, the library's log, seeds; and the marks that a folder gives."""

import os

# Before torch is imported anywhere: its thread pools read this once. Workers inherit it.
os.environ["OMP_NUM_THREADS"] = "1"

import logging
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, settings

from dadapt_dist.checkpoint.from_released import RELEASED
from dadapt_dist.methods import METHODS
from tests.helpers.pool import WorkerPool

torch.set_num_threads(1)

# Time limits belong to pytest-timeout. In CI the examples are the same in every run, so a red run is red again locally.
settings.register_profile(
    "default",
    deadline=None,
    max_examples=25,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
settings.register_profile("ci", settings.get_profile("default"), derandomize=True, print_blob=True)
settings.load_profile("ci" if os.environ.get("CI") else "default")

FOLDER = Path(__file__).parent
# The mark of each test in a folder; the first folder that holds a file counts.
MARKS = {
    "unit": "unit",
    "helpers": "unit",
    "distributed": "distributed",
    "integrations/deepspeed": "deepspeed",
    "integrations/accelerate": "huggingface",
    "integrations/transformers": "huggingface",
    "integrations/lightning": "lightning",
    "integrations/mpi": "mpi",
    "integrations/programs": "tools",
    "programs": "programs",
    "tools": "tools",
    "docs": "docs",
    "gpu": "gpu",
}
POOLS = {"pools", "pool2", "pool4"}


def mark_of(path: Path, fixtures: set[str]) -> str:
    """The mark of a test by its file; a test that starts ranks is no unit test, wherever it stands.

    Raises:
        KeyError: the file is in a folder that has no mark.
    """
    parents = [folder.as_posix() for folder in path.relative_to(FOLDER).parents]
    mark = next((MARKS[folder] for folder in MARKS if folder in parents), None)
    if mark is None:
        raise KeyError(f"{path} is in a folder that has no mark: give it one in MARKS of {__file__}")
    return "distributed" if mark == "unit" and fixtures & POOLS else mark


# Prodigy is run wherever a test runs over methods. Of what the others would run on several ranks one test in so many is, by the
# name of the test: of D-Adaptation, of one each without sums and with sums before the move, and of the rest. The conformance
# suite runs over all.
ALWAYS = {"prodigy"}
SHARES = {"released": 5, "kinds": 4, "newer": 60}
KINDS = {"dog", "cocob"}
EVERY = "TEST_EVERY_METHOD" in os.environ
# `make test-fast`: shares hold in unit tests, too, and fewer methods have one.
FEW = "TEST_FEW_METHODS" in os.environ


def is_of_the_matrix(item: pytest.Item, mark: str) -> bool:
    """Whether a test is one of the many that `make test-matrix` runs, and `make test` does not."""
    params = getattr(item, "callspec", None)
    values = [getattr(value, "method", value) for value in params.params.values()] if params else []
    words = [value.split()[0].replace("-", "_") for value in values if isinstance(value, str) and value.split()]
    others = [word for word in words if word in METHODS and word not in ALWAYS]
    if not others or mark == "docs" or (mark == "unit" and not FEW and RELEASED.keys() >= {*others}):
        return False
    kind = "released" if RELEASED.keys() >= {*others} else "kinds" if {*others} <= KINDS else "newer"
    share = (SHARES[kind] if mark != "unit" or kind != "kinds" else 1) * (4 if FEW else 1)
    return zlib.crc32(item.nodeid.encode()) % share != 0


def is_left_out(item: pytest.Item) -> bool:
    """Whether a case of a test that is marked `one_in(n)` is one of the n - 1 in n that are left to `make test-matrix`."""
    marked = item.get_closest_marker("one_in")
    return marked is not None and zlib.crc32(item.nodeid.encode()) % int(marked.args[0]) != 0


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        mark = mark_of(item.path, set(getattr(item, "fixturenames", ())))
        item.add_marker(mark)
        in_one_go = EVERY and item.get_closest_marker("in_one_go")
        if mark == "programs" or is_of_the_matrix(item, mark) or is_left_out(item) or in_one_go:
            item.add_marker("matrix")


@pytest.fixture(scope="module")
def pools() -> Iterator[Callable[[int], WorkerPool]]:
    """`pools(n)` is the pool of n ranks, shared by the tests of a module: what it imports and leaves behind ends with it."""
    made: dict[int, WorkerPool] = {}
    yield lambda world_size: made.setdefault(world_size, WorkerPool(world_size))
    for pool in made.values():
        pool.close()


@pytest.fixture(scope="module")
def pool2(pools: Callable[[int], WorkerPool]) -> WorkerPool:
    """Two ranks, shared by the tests of a module."""
    return pools(2)


@pytest.fixture(scope="module")
def pool4(pools: Callable[[int], WorkerPool]) -> WorkerPool:
    """Four ranks, shared by the tests of a module."""
    return pools(4)


@pytest.fixture(autouse=True)
def _same_random_numbers() -> None:
    torch.manual_seed(0)


@pytest.fixture
def library_log(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    """What the library logs in this process, from DEBUG up: `library_log.messages`, `library_log.records`."""
    caplog.set_level(logging.DEBUG, logger="dadapt_dist")
    return caplog
