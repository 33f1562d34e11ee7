"""AdaGrad++ and Adam++: the number of elements, and the distance that gives the step."""

from typing import Any

import pytest
import torch
from torch import nn

import dadapt_dist as dd
from tests.helpers.oracles.released import assert_same
from tests.helpers.runs import run_oracle, run_ours


@pytest.mark.parametrize(
    ("key", "options"),
    [
        ("adagrad_pp", {"eps": 1e-3, "weight_decay": 0.1, "lr": 0.5}),
        ("adam_pp", {"normalizer": "sum"}),
        ("adam_pp", {"beta1_decay": 0.9, "betas": (0.8, 0.95), "weight_decay": 0.01, "eps": 1e-3}),
    ],
)
def test_options_give_the_oracles_numbers(key: str, options: dict[str, Any]) -> None:
    options = {"d0": 1e-3, **options}
    assert_same(run_ours(key, options, steps=60), run_oracle(key, options, steps=60), d0=1e-3)


@pytest.mark.parametrize("made", [dd.AdaGradPP, dd.AdamPP])
def test_elements_are_counted_once_as_the_run_begins(made: Any) -> None:
    """Of all that train, also without a gradient; not of frozen ones, nor of a group that comes later."""
    a, b, frozen, late = (nn.Parameter(torch.ones(n)) for n in (3, 5, 7, 11))
    frozen.requires_grad_(False)
    optimizer = made([{"params": [a, frozen]}, {"params": [b]}])
    a.grad = torch.ones(3)
    optimizer.step()
    assert optimizer.param_groups[0]["element_count"] == 8
    optimizer.add_param_group({"params": [late]})
    late.grad = torch.ones(11)
    optimizer.step()
    assert optimizer.param_groups[0]["element_count"] == 8


def test_d_is_the_root_mean_square_distance() -> None:
    x = nn.Parameter(torch.zeros(6, dtype=torch.float64))
    optimizer = dd.AdaGradPP([x], d0=0.1)
    for step in range(20):
        x.grad = x.detach() - torch.linspace(1, 2, 6, dtype=torch.float64)
        optimizer.step()
        far = float(x.detach().square().mean().sqrt())
        assert optimizer.d == pytest.approx(max(0.1, far), rel=1e-12), step


def test_frozen_it_keeps_the_step_and_drops_the_start() -> None:
    x = nn.Parameter(torch.zeros(6))
    optimizer = dd.AdamPP([x], d0=0.1, freeze_after=3)
    for _ in range(6):
        x.grad = x.detach() - 2.0
        optimizer.step()
    assert set(optimizer.state[x]) == {"exp_avg", "exp_avg_sq", "max_exp_avg_sq"}
