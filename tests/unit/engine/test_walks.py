"""Files of the package that a step and a construction enter: those that a reader opens who follows them."""

import sys
from typing import Any

import pytest
import torch

from dadapt_dist.engine.diagnostics.advice import STILL
from dadapt_dist.kernels import cpu_c
from dadapt_dist.methods import METHODS
from dadapt_dist.sharding import registry
from docs.measure_walks import walk
from tests.helpers.classes import ALL, CLASSES

MOST = 12


@pytest.mark.skipif(not cpu_c.available(), reason="the plain loop has files of its own")
@pytest.mark.parametrize("method", CLASSES)
def test_a_steady_step_enters_few_files(method: str) -> None:
    """What is rarely needed (diagnostics, scalers, frameworks, other ranks) costs a step one look at a mark, and no call."""
    params = [torch.nn.Parameter(torch.ones(4, 4)) for _ in range(4)]
    optimizer = ALL[method](params)
    for _ in range(20):
        files = _step(params, optimizer)
    assert len(files) <= MOST, "\n".join(files)


def _shared_files(method: str) -> int:
    """How many files a method's class has beside its own and that of all methods."""
    modules = {base.__module__ for base in METHODS[method].__mro__}
    return sum(module.startswith("dadapt_dist.methods.") for module in modules) - 2


@pytest.mark.parametrize("method", ALL)
def test_a_construction_enters_few_files(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What only a step needs is made by the first; a framework that is not imported is asked nothing."""
    for adapter in registry.adapters:
        monkeypatch.delitem(sys.modules, str(adapter.module), raising=False)  # another test may have imported it
    params = [torch.nn.Parameter(torch.ones(4, 4)) for _ in range(4)]
    for _ in range(2):  # what is looked up once for a class counts too, where nothing was built before
        files, _, _ = walk(lambda: ALL[method](params))
        of_methods = [file for file in files if file.startswith("methods/")]  # base.py, its own, and perhaps a family's
        assert len(files) - len(of_methods) <= MOST - 3, "\n".join(files)
        assert len(files) <= MOST or method != "prodigy", "\n".join(files)
        assert len(of_methods) <= 2 + max(_shared_files(method), 1), "\n".join(files)


def _quiet(steps: int) -> tuple[list[torch.nn.Parameter], Any]:
    params = [torch.nn.Parameter(torch.ones(4)) for _ in range(2)]
    optimizer = ALL["prodigy"](params)
    for _ in range(steps):
        _step(params, optimizer)
    return params, optimizer


def _step(params: list[torch.nn.Parameter], optimizer: Any, value: float = 1.0) -> list[str]:
    for p in params:
        p.grad = torch.full_like(p, value)
    return walk(optimizer.step)[0]


def test_a_held_step_wakes_the_diagnostics_and_they_rest_again(caplog: pytest.LogCaptureFixture) -> None:
    params, optimizer = _quiet(20)
    caplog.clear()
    _step(params, optimizer, float("nan"))
    _step(params, optimizer)
    assert [record.message for record in caplog.records if "was not finite" in record.message]
    for _ in range(3):
        files = _step(params, optimizer)
    assert not any("diagnostics" in file for file in files)


def test_a_schedule_past_its_end_wakes_the_diagnostics(caplog: pytest.LogCaptureFixture) -> None:
    params, optimizer = _quiet(20)
    optimizer.param_groups[0]["lr"] = 0.0
    for _ in range(STILL):
        _step(params, optimizer)
    assert not [record for record in caplog.records if "lr has been 0" in record.message]
    _step(params, optimizer)
    assert [record for record in caplog.records if "lr has been 0" in record.message]
