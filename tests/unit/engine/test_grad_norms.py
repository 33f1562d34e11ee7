"""Check the norms of gradients that ride in a step's reduce: their values, when they are known, and that nothing else changes."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch

import dadapt_dist
from dadapt_dist import log_values, optimizers
from dadapt_dist.methods import METHODS
from dadapt_dist.monitor import JsonlWriter, record
from dadapt_dist.monitor.refine import read_norms


def weights() -> list[torch.nn.Parameter]:
    torch.manual_seed(3)
    return [torch.nn.Parameter(torch.randn(shape)) for shape in ((4, 3), (5,), ())]


def gradients(step: int) -> list[torch.Tensor]:
    random = torch.Generator().manual_seed(step)
    return [torch.randn(shape, generator=random) for shape in ((4, 3), (5,), ())]


def expected(grads: list[torch.Tensor]) -> dict[str, Any]:
    flat = torch.cat([g.flatten().double() for g in grads])
    return {"grad_norm_l1": pytest.approx(float(flat.abs().sum())), "grad_norm": pytest.approx(float(flat.norm()))}


def run(method: str, steps: int = 4, **options: Any) -> tuple[list[torch.nn.Parameter], Any, list[dict[str, float]]]:
    params = weights()
    optimizer = optimizers.of_method(method)(params, **options)
    norms = []
    for step in range(steps):
        for p, g in zip(params, gradients(step), strict=True):
            p.grad = g
        optimizer.step()
        norms.append(optimizer.grad_norms)
    return params, optimizer, norms


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("options", [{}, {"nonfinite": "skip"}, {"before": "lagged"}, {"freeze_after": 2}])
def test_every_method_has_them_and_steps_as_without(method: str, options: dict[str, Any], library_log: Any) -> None:
    plain, without, none = run(method, **options)
    params, optimizer, norms = run(method, grad_norms=True, **options)
    assert norms == [expected(gradients(step)) for step in range(4)]
    assert none == [{}] * 4
    assert all(torch.equal(p, q) for p, q in zip(params, plain, strict=True))
    assert {k: str(v) for k, v in record(optimizer).items() if "norm" not in k} == {
        k: str(v) for k, v in record(without).items()
    }
    scalars, others = (o.step_size._scalars.lists() for o in (optimizer, without))
    assert str(scalars) == str(others)


def test_a_log_has_them_once_a_step_was_taken_and_a_schedule_is_made_of_it(tmp_path: Path) -> None:
    params = weights()
    optimizer = dadapt_dist.Prodigy(params, grad_norms=True)
    assert "grad_norm" not in log_values(optimizer)
    with JsonlWriter(tmp_path / "metrics.jsonl") as log:
        for step in range(1, 13):
            for p, g in zip(params, gradients(step), strict=True):
                p.grad = g
            optimizer.step()
            log.write(step, **log_values(optimizer))
    assert read_norms(log.path, "l2") == {s: expected(gradients(s))["grad_norm"] for s in range(1, 13)}
    assert list(read_norms(log.path, "l1")) == list(range(1, 13))


@pytest.mark.parametrize("method", ["prodigy", "dog", "cocob"])
@pytest.mark.parametrize("nonfinite", [None, "hold", "skip"])
def test_a_gradient_that_is_not_finite_makes_them_nan_for_that_step(nonfinite: Any, method: str) -> None:
    params = weights()
    optimizer = optimizers.of_method(method)(params, grad_norms=True, nonfinite=nonfinite)
    for step in range(3):
        for p, g in zip(params, gradients(step), strict=True):
            p.grad = g.fill_(math.nan) if step == 1 else g
        optimizer.step()
        assert math.isnan(optimizer.grad_norms["grad_norm"]) == (step == 1)
    assert optimizer.grad_norms == expected(gradients(2))


def test_under_a_scaler_they_are_unscaled_and_nan_after_an_overflow() -> None:
    params = weights()
    optimizer = dadapt_dist.Prodigy(params, grad_norms=True)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    for step in range(3):
        given = gradients(step)
        loss = sum((p * g).sum() for p, g in zip(params, given, strict=True)) * (math.inf if step == 1 else 1.0)
        optimizer.zero_grad()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        norms = optimizer.grad_norms
        assert math.isnan(norms["grad_norm"]) if step == 1 else norms == expected(given)


def test_all_optimizers_of_a_step_size_count_together() -> None:
    step_size = dadapt_dist.StepSize(grad_norms=True)
    params = weights()
    pair = [dadapt_dist.Prodigy(part, step_size=step_size) for part in (params[:1], params[1:])]
    for p, g in zip(params, gradients(0), strict=True):
        p.grad = g
    for optimizer in pair:
        optimizer.step()
    assert pair[0].grad_norms == pair[1].grad_norms == expected(gradients(0))


def test_groups_that_stand_still_are_left_out() -> None:
    one, two, _ = weights()
    optimizer = dadapt_dist.Prodigy([{"params": [one]}, {"params": [two], "lr": 0.0}], grad_norms=True)
    for p, g in zip((one, two), gradients(0), strict=False):
        p.grad = g
    optimizer.step()
    assert optimizer.grad_norms == expected(gradients(0)[:1])


def test_what_is_no_flag_is_refused() -> None:
    with pytest.raises(ValueError, match="grad_norms='l1' must be True or False"):
        dadapt_dist.Prodigy(weights(), grad_norms="l1")
