"""Compare every method, with every option, with its oracle and its released package in one process."""

from typing import Any

import pytest
import torch

from tests.helpers.classes import ALL, BY_DISTANCE, WITH_D, first_d
from tests.helpers.oracles.cases import CASES, HALF_AT_LR_ZERO, WARMUP_COSINE, WARMUP_FROM_ZERO, with_eps
from tests.helpers.oracles.released import Problem, assert_same, with_gaps
from tests.helpers.runs import run_oracle, run_ours, run_released

METHODS = list(ALL)
BEYOND_RELEASED: list[tuple[str, dict[str, Any], list[dict[str, Any]]]] = [
    ("prodigy", {"eps": 1e-8}, [{"indices": [0, 1], "lr": 0.5, "weight_decay": 0.1}, {"indices": [2, 3], "eps": 1e-3}]),
    ("prodigy", {"use_bias_correction": True}, [{"indices": [0, 3], "betas": (0.5, 0.9)}, {"indices": [1, 2]}]),
    ("prodigy", {}, [{"indices": [0], "layer_scale": 0.3}, {"indices": [1, 2, 3], "lr": 0.7}]),
    ("prodigy", {"maximize": False}, [{"indices": [0, 2], "estimate": "a"}, {"indices": [1, 3], "estimate": "b"}]),
    ("prodigy", {"betas": (0.0, 0.999)}, [{"indices": [0, 1, 2, 3]}]),
    ("dadapt_adam", {}, [{"indices": [0, 1], "lr": 0.5, "weight_decay": 0.1}, {"indices": [2, 3], "eps": 1e-3}]),
    ("dadapt_adam", {}, [{"indices": [0], "layer_scale": 0.3}, {"indices": [1, 2, 3], "betas": (0.5, 0.9)}]),
    ("dadapt_adam", {}, [{"indices": [0], "estimate": "a"}, {"indices": [1, 2, 3], "estimate": "b", "d0": 1e-4}]),
    ("dadapt_sgd", {"momentum": 0.5}, [{"indices": [0], "layer_scale": 0.3}, {"indices": [1, 2, 3], "lr": 0.5}]),
    (
        "dadapt_sgd",
        {},
        [{"indices": [0, 1], "weight_decay": 0.1}, {"indices": [2, 3], "estimate": "b", "momentum": 0.9}],
    ),
    ("dadapt_adagrad", {"d0": 1e-3}, [{"indices": [0], "layer_scale": 0.3}, {"indices": [1, 2, 3], "lr": 0.5}]),
    ("dadapt_adagrad", {"d0": 1e-3}, [{"indices": [0, 1], "eps": 1e-2}, {"indices": [2, 3], "estimate": "b"}]),
    ("dadapt_adan", {}, [{"indices": [0], "layer_scale": 0.3}, {"indices": [1, 2, 3], "lr": 0.5}]),
    ("dadapt_adan", {}, [{"indices": [0], "betas": (0.9, 0.8, 0.95)}, {"indices": [1, 2, 3], "estimate": "b"}]),
    ("dadapt_lion", {}, [{"indices": [0], "layer_scale": 0.3}, {"indices": [1, 2, 3], "lr": 0.5}]),
    ("dadapt_lion", {}, [{"indices": [0, 1], "weight_decay": 0.001}, {"indices": [2, 3], "estimate": "b"}]),
]


def first(key: str) -> tuple[dict[str, Any], float]:
    """(options of a run of 200 steps, the d that it is to outgrow ten times)."""
    d0 = {"dadapt_adagrad": 1e-3, "dual_averaging": 0.05}.get(key, 1e-3 if key in BY_DISTANCE else 1e-6)
    return first_d(key, d0), d0 if key in WITH_D else 0.0


@pytest.mark.slow
@pytest.mark.parametrize(("key", "options"), CASES, ids=lambda value: str(value).replace(" ", ""))
def test_a_method_gives_the_released_numbers_over_200_steps(key: str, options: dict[str, Any]) -> None:
    options = with_eps(key, options)
    assert_same(run_ours(key, options), run_released(key, options), d0=options.get("d0", 1e-6))


@pytest.mark.parametrize(("key", "options", "groups"), BEYOND_RELEASED, ids=lambda value: str(value).replace(" ", ""))
def test_groups_with_options_of_their_own_give_the_oracles_numbers(key: str, options: Any, groups: Any) -> None:
    assert_same(
        run_ours(key, options, groups=groups), run_oracle(key, options, groups=groups), d0=options.get("d0", 1e-6)
    )


@pytest.mark.parametrize("key", METHODS)
@pytest.mark.parametrize("lrs", [WARMUP_COSINE, WARMUP_FROM_ZERO], ids=["warm-up and cosine", "warm-up from lr 0"])
def test_a_schedule_gives_the_oracles_numbers(key: str, lrs: list[float]) -> None:
    options, d0 = first(key)
    assert_same(run_ours(key, options, lrs=lrs), run_oracle(key, options, lrs=lrs), d0=d0)


@pytest.mark.parametrize("key", METHODS)
def test_parameters_without_a_gradient_in_some_steps_give_the_oracles_numbers(key: str) -> None:
    gradients = with_gaps(Problem().gradients)
    options, d0 = first(key)
    ours = run_ours(key, options, gradients=gradients)
    assert_same(ours, run_oracle(key, options, gradients=gradients), d0=d0)


@pytest.mark.parametrize("key", METHODS)
def test_a_group_with_lr_zero_gives_the_oracles_numbers_and_stays_where_it_is(key: str) -> None:
    options, d0 = first(key)
    ours, theirs = run_ours(key, options, groups=HALF_AT_LR_ZERO), run_oracle(key, options, groups=HALF_AT_LR_ZERO)
    assert_same(ours, theirs, d0=d0)
    assert torch.equal(ours.x[-1][12:31], ours.start[12:31])


@pytest.mark.parametrize("scale", [1e-18, 1e12])
@pytest.mark.parametrize("key", ["prodigy", "dadapt_adam", "dadapt_sgd", "dadapt_adan"])
def test_tiny_and_huge_gradients_give_the_oracles_numbers(key: str, scale: float) -> None:
    problem = Problem(scale=scale)
    options = {} if key == "dadapt_sgd" else {"eps": 1e-8 * scale}
    ours, theirs = run_ours(key, options, problem=problem), run_oracle(key, options, problem=problem)
    assert_same(ours, theirs)
