"""Scalars that a user sets or puts back, of DoG above all, whose d is a distance, and of COCOB, which has none."""

import copy
import math
from contextlib import suppress
from typing import Any

import pytest
import torch
from torch import nn

import dadapt_dist as dd
from tests.helpers.classes import ALL, first_d


def step(p: nn.Parameter, optimizer: dd.LearningRateFree, value: float = 1.0) -> None:
    p.grad = torch.full_like(p, value)
    optimizer.step()


def test_a_d_set_before_the_first_step_is_that_of_the_first_step() -> None:
    p = nn.Parameter(torch.zeros(4, dtype=torch.float64))
    optimizer = dd.DoG([p], eps=1e-30)
    optimizer.param_groups[0]["d"] = 0.5
    step(p, optimizer)
    assert optimizer.d == 0.5
    torch.testing.assert_close(p.detach(), torch.full((4,), -0.25, dtype=torch.float64))  # d/√Σg²


@pytest.mark.parametrize("steps", [0, 2])
def test_a_d_set_by_hand_is_saved_and_loaded(steps: int) -> None:
    p, q = (nn.Parameter(torch.ones(4)) for _ in range(2))
    optimizer, other = dd.DoG([p]), dd.DoG([q])
    for _ in range(steps):
        step(p, optimizer)
    optimizer.param_groups[0]["d"] = 0.5
    other.load_state_dict(optimizer.state_dict())
    q.data.copy_(p.data)
    for _ in range(3):
        step(p, optimizer)
        step(q, other)
        assert optimizer.d == other.d >= 0.5
    assert torch.equal(p, q)


def test_d_may_not_be_set_below_the_distance_that_the_weights_have_gone() -> None:
    p = nn.Parameter(torch.ones(4))
    optimizer = dd.DoG([p])
    for _ in range(3):
        step(p, optimizer)
    d = optimizer.d
    weights = p.detach().clone()
    optimizer.param_groups[0]["d"] = d / 2
    with pytest.raises(ValueError, match=r"is below .* the largest distance .* Lower lr instead"):
        step(p, optimizer)
    assert torch.equal(p, weights)
    assert optimizer.d == d


@pytest.mark.parametrize("value", [0.0, -1.0, float("inf"), float("nan"), "1"])
def test_a_d_that_cannot_be_names_the_option_of_the_method(value: Any) -> None:
    for made, option in ((dd.DoG, "reps_rel"), (dd.Prodigy, "d0")):
        p = nn.Parameter(torch.ones(4))
        optimizer = made([p])
        optimizer.param_groups[0]["d"] = value
        with pytest.raises(ValueError, match=f"pass {option} to the optimizer"):
            step(p, optimizer)
        with pytest.raises(ValueError, match=f"pass {option} to the optimizer"):
            optimizer.set_d(value)


def test_a_checkpoint_of_large_float64_gradients_loads() -> None:
    p = nn.Parameter(torch.ones(4, dtype=torch.float64))
    optimizer = dd.DoG([p])
    step(p, optimizer, 1e100)
    optimizer.load_state_dict(optimizer.state_dict())
    assert optimizer.param_groups[0]["g_sq_sum"] == pytest.approx(4e200)


def test_a_method_without_d_refuses_a_d() -> None:
    p = nn.Parameter(torch.ones(4))
    optimizer = dd.COCOB([p])
    step(p, optimizer)
    before = p.detach().clone()
    for what in (lambda: step(p, optimizer), optimizer.state_dict, lambda: optimizer.set_d(0.1)):
        optimizer.param_groups[0]["d"] = 0.1
        with pytest.raises(ValueError, match=r"d=0.1 cannot be set: cocob has no d. Set lr"):
            what()
        assert "d" not in optimizer.param_groups[0]
    assert torch.equal(p, before)
    step(p, optimizer)
    assert repr(optimizer).startswith("COCOB (steps=2, held steps=0")


@pytest.mark.parametrize("method", ALL)
def test_groups_of_an_earlier_time_bring_all_their_scalars(method: str) -> None:
    """Also a d below the present one, and of a method without d."""
    p = nn.Parameter(torch.ones(4, dtype=torch.float64))
    optimizer = ALL[method]([p], **first_d(method, 1e-3))
    for _ in range(3):
        step(p, optimizer)
    earlier = [{**copy.deepcopy(group), "params": [p]} for group in optimizer.param_groups]
    scalars = {name: value.clone() for name, value in optimizer.step_size._scalars.values.items()}
    for _ in range(20):
        step(p, optimizer)
    optimizer.param_groups[:] = earlier
    assert len(optimizer.effective_lr) == 1  # which looks at the groups
    shown = [name for name in scalars if name in optimizer.param_groups[0]]
    assert all(torch.equal(optimizer.step_size._scalars.values[name], scalars[name]) for name in shown)
    assert optimizer.step_size.steps == 3
    step(p, optimizer)


@pytest.mark.parametrize("method", ALL)
@pytest.mark.parametrize("before", ["exact", "lagged"])
@pytest.mark.parametrize(("mode", "held"), [("hold", 2), ("skip", 2), ("raise", 0)])
def test_steps_that_are_held_or_skipped_are_counted_and_errors_are_not(
    method: str, before: Any, mode: Any, held: int
) -> None:
    p = nn.Parameter(torch.ones(4))
    optimizer = ALL[method]([p], step_size=dd.StepSize(before=before, nonfinite=mode), **first_d(method, 1e-3))
    for value in (math.nan, 1.0, 1.0, math.inf, 1.0):
        with suppress(dd.NonFiniteError):
            step(p, optimizer, value)
    assert optimizer.step_size.held_steps == held
    assert bool(p.isfinite().all())


@pytest.mark.parametrize("name", ALL)
def test_scalars_that_were_deleted_from_a_group_are_back_after_the_next_step(name: str) -> None:
    """Nothing ever put them back, and every step looked for what somebody had put in their place."""
    p, q = (nn.Parameter(torch.ones(3)) for _ in range(2))
    optimizer, twin = (ALL[name]([{"params": [w]}], **first_d(name, 1e-2)) for w in (p, q))
    for number in range(4):
        group = optimizer.param_groups[0]
        if number % 2:
            for key in {"d", "k", "steps"} & group.keys():
                del group[key]
        step(p, optimizer)
        step(q, twin)
        views = {key: value for key, value in group.items() if isinstance(value, torch.Tensor)}
        assert all(torch.equal(value, twin.param_groups[0][key]) for key, value in views.items())
        assert {"steps", "k"} <= views.keys()
        assert ("d" in views) == ("d" in twin.param_groups[0])
        assert not optimizer._lots.replaced or number % 2
    assert torch.equal(p, q)
    if "d" in optimizer.param_groups[0]:
        del optimizer.param_groups[0]["d"]
        assert optimizer.d == twin.d  # also where d is read before the next step
        optimizer.set_d(2.5)
        assert optimizer.param_groups[0]["d"] == 2.5


def test_copies_of_groups_of_which_one_has_another_d_disagree() -> None:
    """Whichever it is: one d has one value."""
    for place in range(2):
        p, q = (nn.Parameter(torch.ones(4)) for _ in range(2))
        optimizer = dd.Prodigy([{"params": [p]}, {"params": [q]}], d0=1e-4)
        step(p, optimizer)
        groups = [dict(group) for group in optimizer.param_groups]
        groups[place]["d"] = 0.5
        optimizer.param_groups = groups
        with pytest.raises(ValueError, match="differ in d"):
            step(p, optimizer)
