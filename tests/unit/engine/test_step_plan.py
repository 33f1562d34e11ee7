"""Tests of what a step keeps for the next one."""

import weakref
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

import dadapt_dist as dd

SHAPES = [(3,), (2, 4), (5,), ()]


def made() -> tuple[list[nn.Parameter], Any]:
    params = [nn.Parameter(torch.full(shape, 0.5)) for shape in SHAPES]
    return params, dd.Prodigy(params, d0=1e-2)


def step(params: list[nn.Parameter], optimizer: Any, index: int, without: tuple[int, ...] = ()) -> None:
    for place, p in enumerate(params):
        p.grad = None if place in without else p.detach() + 0.1 * (index + place)
    optimizer.step()


def test_each_pattern_of_gradients_has_its_plan_and_the_bits_are_those_without_any() -> None:
    results = []
    for forgetful in (False, True):
        params, optimizer = made()
        for index in range(12):
            if forgetful:
                optimizer._join()
            step(params, optimizer, index, ((), (1,), (0, 2))[index % 3])
            if index == 8:
                plans = {id(plan) for plan in optimizer._plans._plans}
        results.append(([p.detach().clone() for p in params], optimizer.d))
        if not forgetful:
            assert len(plans) == 3
            assert {id(plan) for plan in optimizer._plans._plans} == plans
    assert results[0][1] == results[1][1]
    assert all(torch.equal(a, b) for a, b in zip(results[0][0], results[1][0], strict=True))


def test_an_optimizer_keeps_a_bounded_number_of_plans() -> None:
    params = [nn.Parameter(torch.ones(2)) for _ in range(6)]
    optimizer = dd.Prodigy(params)
    for index in range(64):
        step(params, optimizer, index, tuple(place for place in range(6) if index >> place & 1))
    assert len(optimizer._plans._plans) == 8


def test_a_group_that_is_replaced_by_one_with_other_betas_steps_by_its_own() -> None:
    results = []
    for betas in ((0.9, 0.999), (0.5, 0.9)):
        params, optimizer = made()
        for index in range(4):
            step(params, optimizer, index)
        group = dict(optimizer.param_groups[0]) | {"betas": betas}
        optimizer.param_groups[:] = [group]
        step(params, optimizer, 4)
        step(params, optimizer, 5)
        results.append(params[0].detach().clone())
    assert not torch.equal(*results)


def test_a_distributed_gradient_is_asked_for_once_a_step_also_when_the_plan_fails() -> None:
    """Ranks may have to meet for it, and only one of them may have a plan that fails."""
    params, optimizer = made()
    asked: list[int] = []
    for index in range(3):
        step(params, optimizer, index)
    (plan,) = optimizer._plans._plans
    for one in plan.planned:
        one.place = replace(one.place, gradient=lambda p: asked.append(id(p)) or p.grad)
    plan._is_plain = False
    step(params, optimizer, 3)
    assert sorted(asked) == sorted(map(id, params))
    asked.clear()
    params[1].data = params[1].data.clone()
    step(params, optimizer, 4)
    assert sorted(asked) == sorted(map(id, params))


@pytest.mark.parametrize("backend", ["auto", "eager"])
def test_gradients_are_let_go_of_after_a_step_and_after_one_that_fails(backend: str) -> None:
    params, optimizer = made()
    optimizer._backend = backend
    for index in range(4):
        step(params, optimizer, index)
    gone = [weakref.ref(p.grad) for p in params]
    for p in params:
        p.grad = None
    assert [one() for one in gone] == [None] * len(params)
    for index, p in enumerate(params):
        p.grad = torch.ones_like(p)
        gone[index] = weakref.ref(p.grad)
    optimizer.state[params[2]]["s"] = torch.zeros(9)
    with pytest.raises(ValueError, match="shape"):
        optimizer.step()
    for p in params:
        p.grad = None
    assert [one() for one in gone] == [None] * len(params)
