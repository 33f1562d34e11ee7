"""Check what is said of a run that was told how long it is: too short, d not found, d still growing, past its end."""

import logging
from typing import Any

import pytest
import torch
from torch import nn

import dadapt_dist as dd

NAME = "dadapt_dist.engine.diagnostics.advice"


def run(steps: int, total: int, gradient: Any, **options: Any) -> dd.Prodigy:
    p = nn.Parameter(torch.ones(8))
    optimizer = dd.Prodigy([p], **{"recipe": "auto", "total_steps": total, **options})
    for step in range(steps):
        p.grad = gradient(step, p.detach()).clone()
        optimizer.step()
    return optimizer


def said(log: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in log.records if record.name == NAME and record.levelno >= logging.WARNING]


def downhill(step: int, x: torch.Tensor) -> torch.Tensor:
    return x + 5.0


def aimless(step: int, x: torch.Tensor) -> torch.Tensor:
    return torch.randn(x.shape, generator=torch.Generator().manual_seed(step))


def test_nothing_is_said_of_a_run_that_finds_d_in_time(library_log: Any) -> None:
    run(400, 400, downhill, d0=1e-3)
    assert said(library_log) == []


def test_a_very_short_run_is_named_once(library_log: Any) -> None:
    run(20, 20, downhill)
    assert [text for text in said(library_log) if "total_steps=20 is short" in text and "d0=1e-4" in text] == said(
        library_log
    )
    assert len(said(library_log)) == 1


def test_d_that_has_not_left_d0_at_half_of_the_run_is_named(library_log: Any) -> None:
    run(60, 100, aimless, d_coef=1e-3, d0=1e-5)
    assert len(said(library_log)) == 1
    assert "d is still d0=1e-05 after half of total_steps=100" in said(library_log)[0]


def test_d_that_still_grows_at_the_end_is_named(library_log: Any) -> None:
    run(100, 100, downhill, growth_rate=1.05)
    assert len(said(library_log)) == 1
    assert "between 80% and 95% of total_steps=100" in said(library_log)[0]


def test_weight_decay_that_takes_all_of_the_first_weights_is_named(library_log: Any) -> None:
    run(200, 200, downhill, d0=1e-2, weight_decay=0.1)
    assert len(said(library_log)) == 1
    assert "weight_decay=0.1 adds up to" in said(library_log)[0]
    library_log.clear()
    run(200, 200, downhill, d0=1e-2, weight_decay=0.01)
    assert said(library_log) == []


def test_steps_after_the_end_move_nothing_and_are_named_once(library_log: Any) -> None:
    optimizer = run(60, 60, downhill, d0=1e-2)
    p = optimizer.param_groups[0]["params"][0]
    before = p.detach().clone()
    library_log.clear()
    for _ in range(5):
        p.grad = torch.ones_like(p)
        optimizer.step()
    assert torch.equal(p, before)
    assert optimizer.effective_lr == [0.0]
    assert len(said(library_log)) == 1
    assert "goes on after total_steps=60" in said(library_log)[0]


def test_a_run_that_was_resumed_hears_it_too(library_log: Any) -> None:
    saved = run(55, 60, downhill, d0=1e-2).state_dict()
    library_log.clear()
    p = nn.Parameter(torch.ones(8))
    optimizer = dd.Prodigy([p], recipe="auto", total_steps=60, d0=1e-2)
    optimizer.load_state_dict(saved)
    for _ in range(8):
        p.grad = torch.ones_like(p)
        optimizer.step()
    assert len([text for text in said(library_log) if "goes on after" in text]) == 1


def test_a_scheduler_beside_it_is_named(library_log: Any) -> None:
    p = nn.Parameter(torch.ones(8))
    optimizer = dd.Prodigy([p], recipe="auto", total_steps=100, d0=1e-2)
    scheduler = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.1, 100)
    for step in range(60):
        p.grad = downhill(step, p.detach())
        optimizer.step()
        scheduler.step()
    assert [text for text in said(library_log) if "the two multiply" in text] == said(library_log)
    assert len(said(library_log)) == 1
