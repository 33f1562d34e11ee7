"""Schedule-Free methods: options, the weights that are evaluated, narrow parameters, and the bound of ScheduleFree+."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import dadapt_dist as dd
from dadapt_dist import optimizers
from tests.helpers.oracles import ORACLES
from tests.helpers.oracles.released import Problem, flat, grouped

METHODS = ["schedule_free_sgd", "schedule_free_adamw", "prodigy_schedule_free", "schedule_free_plus"]
CASES: list[tuple[str, dict[str, Any]]] = [
    ("schedule_free_sgd", {"lr": 0.3, "warmup_steps": 10, "r": 1.5, "weight_lr_power": 1.0, "weight_decay": 0.1}),
    ("schedule_free_sgd", {"lr": 0.1, "momentum": 0.5}),
    ("schedule_free_adamw", {"lr": 0.05, "warmup_steps": 10, "r": 1.5, "weight_lr_power": 0.5, "weight_decay": 0.1}),
    ("schedule_free_adamw", {"lr": 0.05, "betas": (0.95, 0.97), "eps": 1e-3, "weight_lr_power": 0.0}),
    ("prodigy_schedule_free", {"d0": 1e-3, "warmup_steps": 10, "r": 1.0, "weight_decay": 0.1, "d_coef": 2.0}),
    ("prodigy_schedule_free", {"d0": 1e-3, "beta3": 0.9, "growth_rate": 1.2, "slice_p": 3, "betas": (0.8, 0.99)}),
    (
        "schedule_free_plus",
        {"norm_beta": 0.9, "average_from": 8, "sf_beta_steps": 20, "weight_decay": 5.0, "bound": 2.0},
    ),
    ("schedule_free_plus", {"lr": 0.3, "bound": math.inf, "warmup_steps": 10, "r": 2.0, "weight_lr_power": 1.0}),
]


def loss_at(step: int) -> float:
    return 2.0 / (1 + step % 7)


def trained(method: str, steps: int, options: dict[str, Any]) -> tuple[Any, list[nn.Parameter], Any]:
    """An optimizer, its parameters and its oracle after some steps on the noisy quadratic."""
    problem = Problem()
    xs, groups = grouped(problem.starts, None)
    optimizer, oracle = optimizers.of_method(method)(groups, **options), ORACLES[method](problem.starts, **options)
    for step in range(steps):
        oracle.loss = loss_at(step)
        oracle.step(problem.gradients(step, oracle.params))
        for x, g in zip(xs, problem.gradients(step, xs), strict=True):
            x.grad = g
        optimizer.step(loss=loss_at(step))
    return optimizer, xs, oracle


@pytest.mark.parametrize("keeps", [False, True])
@pytest.mark.parametrize(("method", "options"), CASES, ids=str)
def test_options_and_averages_are_those_of_the_oracle(method: str, options: dict[str, Any], keeps: bool) -> None:
    optimizer, xs, oracle = trained(method, 40, {**options, "keep_average": keeps})
    torch.testing.assert_close(flat(xs), flat(oracle.params), rtol=1e-10, atol=1e-12)
    optimizer.eval()
    torch.testing.assert_close(flat(xs), flat(oracle.evaluated()), rtol=1e-10, atol=1e-12)
    assert not torch.allclose(flat(xs), flat(oracle.params), rtol=1e-4)
    optimizer.train()
    torch.testing.assert_close(flat(xs), flat(oracle.params), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("factors", [(0.5, 1.0), (1.0, 0.5)])
@pytest.mark.parametrize("method", METHODS[:2])
def test_a_schedule_enters_the_weights_of_the_average(method: str, factors: tuple[float, float]) -> None:
    """By the largest lr so far, as in the released package; of the groups, by that of the one with the largest."""
    problem = Problem()
    xs, groups = grouped(problem.starts, [{"indices": [0, 2], "lr": 0.0}, {"indices": [1, 3]}])
    optimizer, oracle = (
        optimizers.of_method(method)(groups),
        ORACLES[method](problem.starts, [{"indices": [0, 2]}, {"indices": [1, 3]}]),
    )
    for step in range(30):
        for number, factor in enumerate(factors):
            lr = 0.1 * factor * (min(1.0, (step + 1) / 10) if step < 20 else 0.3)
            optimizer.param_groups[number]["lr"] = oracle.groups[number]["lr"] = lr
        oracle.step(problem.gradients(step, oracle.params))
        for x, g in zip(xs, problem.gradients(step, xs), strict=True):
            x.grad = g
        optimizer.step()
    torch.testing.assert_close(flat(xs), flat(oracle.params), rtol=1e-10, atol=1e-12)
    assert float(optimizer.param_groups[0]["rate_max"]) == pytest.approx(0.1)


@pytest.mark.parametrize(("dtype", "keeps"), [(torch.float32, False), (torch.bfloat16, False), (torch.bfloat16, True)])
@pytest.mark.parametrize("method", METHODS)
def test_there_and_back_gives_the_bits_of_the_training_weights(method: str, dtype: torch.dtype, keeps: bool) -> None:
    """But where the average is in a higher binade, whose numbers are farther apart."""
    x = nn.Parameter(torch.linspace(1.05, 1.95, 200).to(dtype))
    optimizer = optimizers.of_method(method)([x], lr=0.01, keep_average=keeps)
    for step in range(3):
        x.grad = torch.sin(7 * x.detach().float() + step).to(dtype)
        optimizer.step(loss=0.01)
    before = x.detach().clone()
    optimizer.eval()
    one_binade = (before.log2().floor() == 0) & (x.detach().log2().floor() == 0)
    optimizer.train()
    assert torch.equal(x.detach()[one_binade], before[one_binade])
    assert int(one_binade.sum()) > 150


def drifted(keeps: bool) -> float:
    """How far the average of bfloat16 weights is from that of the float64 oracle, after steps below their resolution."""
    start = torch.linspace(1, 2, 64).bfloat16()
    x = nn.Parameter(start.clone())
    options = {"lr": 1e-3, "keep_average": keeps}
    optimizer, oracle = dd.ScheduleFreeAdamW([x], **options), ORACLES["schedule_free_adamw"]([start], **options)
    for _ in range(40):
        x.grad = torch.ones_like(x)
        oracle.step([torch.ones(64, dtype=torch.float64)])
        optimizer.step()
    optimizer.eval()
    return float((x.detach().double() - oracle.evaluated()[0]).abs().max())


def test_an_average_that_is_kept_loses_nothing_to_bfloat16_weights() -> None:
    """They move by a fraction of their last place in a step; kept, the average is exact up to its own rounding."""
    assert drifted(True) <= 2.0**-8
    assert drifted(False) > 2 * drifted(True)


@pytest.mark.parametrize(
    ("method", "name", "wrong", "other"),
    [
        ("schedule_free_sgd", "momentum", 0.0, 0.8),
        ("schedule_free_adamw", "betas", (0.0, 0.999), (0.8, 0.999)),
        ("prodigy_schedule_free", "betas", (0.0, 0.999), (0.8, 0.999)),
        ("schedule_free_plus", "sf_beta", 0.0, 0.8),
    ],
)
def test_the_part_of_the_average_is_never_0_and_the_same_to_the_end(
    method: str, name: str, wrong: Any, other: Any
) -> None:
    """x is worked out from y by it: another one would give another x, silently."""
    x = nn.Parameter(torch.ones(3))
    with pytest.raises(
        ValueError, match=rf"{name}=.* at 0 there would be no average|{name}=.*= 0 there would be no average"
    ):
        optimizers.of_method(method)([x], **{name: wrong})
    optimizer = optimizers.of_method(method)([x])
    x.grad = torch.ones(3)
    optimizer.step(loss=1.0)
    optimizer.param_groups[0][name] = other
    with pytest.raises(ValueError, match=f"has been given {name}=.*which it keeps to its end"):
        optimizer.step(loss=1.0)
    saved = optimizers.of_method(method)([nn.Parameter(torch.ones(3))], **{name: other}).state_dict()
    with pytest.raises(ValueError, match=f"has {name}=.*a run keeps it to its end"):
        optimizers.of_method(method)([nn.Parameter(torch.ones(3))]).load_state_dict(saved)


def test_gradients_of_evaluation_do_not_mix_with_those_of_training() -> None:
    """Evaluation in the middle of an accumulation is harmless, and a backward pass in it is refused."""
    x = nn.Parameter(torch.ones(3))
    optimizer = dd.ScheduleFreeAdamW([x])
    for _ in range(2):
        optimizer.zero_grad()
        x.square().sum().backward()
        optimizer.step()
    optimizer.eval()  # with the gradient of the step still there
    optimizer.train()
    x.square().sum().backward()
    optimizer.eval()  # in the middle of an accumulation
    shown = x.detach().clone()
    x.square().sum().backward()
    with pytest.raises(RuntimeError, match=r"since ScheduleFreeAdamW.eval\(\).*zero_grad"):
        optimizer.train()
    assert torch.equal(x.detach(), shown)
    optimizer.zero_grad(set_to_none=False)
    optimizer.train()
    assert not torch.equal(x.detach(), shown)


def test_a_tuple_that_comes_back_from_a_checkpoint_as_a_list_is_the_same() -> None:
    saved = dd.ScheduleFreeAdamW([nn.Parameter(torch.ones(3))]).state_dict()
    saved["param_groups"][0]["betas"] = [*saved["param_groups"][0]["betas"]]
    other = dd.ScheduleFreeAdamW([nn.Parameter(torch.ones(3))])
    other.load_state_dict(saved)
    assert other.param_groups[0]["betas"] == (0.9, 0.999)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("mode", ["train", "eval"])
def test_a_checkpoint_in_either_mode_goes_on_bit_for_bit(method: str, mode: str) -> None:
    optimizer, xs, _ = trained(method, 5, {})
    twins = [nn.Parameter(x.detach().clone()) for x in xs]
    optimizer.train(mode == "train")
    with torch.no_grad():
        for twin, x in zip(twins, xs, strict=True):
            twin.copy_(x)
    other = optimizers.of_method(method)(twins)
    other.load_state_dict(optimizer.state_dict())
    for one, ps in ((optimizer, xs), (other, twins)):
        if mode == "eval":
            with pytest.raises(RuntimeError, match="is in evaluation mode"):
                one.step()
        one.train()
        for p in ps:
            p.grad = torch.cos(p.detach())
        one.step(loss=1.0)
    assert torch.equal(flat(xs), flat(twins))


def noisy(bound: float) -> float:
    """The loss of ScheduleFree+ after 300 steps on a noisy logistic regression whose classes overlap."""
    random = torch.Generator().manual_seed(0)
    x = torch.randn(64, 5, generator=random, dtype=torch.float64)
    y = (x[:, 0] + 2 * torch.randn(64, generator=random, dtype=torch.float64) > 0).double()
    w = nn.Parameter(torch.zeros(5, dtype=torch.float64))
    optimizer = dd.ScheduleFreePlus([w], bound=bound)

    def loss(at: Tensor) -> Tensor:
        return nn.functional.binary_cross_entropy_with_logits(x[at] @ w, y[at])

    for _ in range(300):
        optimizer.zero_grad()
        found = loss(torch.randint(64, (8,), generator=random))
        found.backward()
        optimizer.step(loss=found)
    optimizer.eval()
    return float(loss(torch.arange(64)).detach())


def test_the_bound_keeps_schedule_free_plus_from_diverging_on_noise() -> None:
    assert noisy(1.0) < 1.0
    assert noisy(math.inf) > 10


def test_the_learning_rate_is_what_the_step_has_and_d_is_there_only_where_it_is_found() -> None:
    w = nn.Parameter(torch.ones(3))
    optimizer = dd.ScheduleFreeAdamW([w], warmup_steps=4, layer_scale=0.5)
    for step in range(6):
        assert optimizer.effective_lr == [pytest.approx(0.5 * 0.0025 * min(1, (step + 1) / 4))]
        w.grad = torch.ones(3)
        optimizer.step()
    assert math.isnan(optimizer.d)
    assert "d" not in optimizer.param_groups[0]
    assert dd.ProdigyScheduleFree([w]).d == 1e-6


def test_prodigys_d_over_schedule_free_finds_the_distance() -> None:
    """On a noiseless sum of distances, whose gradients keep their size: d stays below D, and comes near it."""
    goal = torch.full((20,), 3.0, dtype=torch.float64)
    w = nn.Parameter(torch.zeros(20, dtype=torch.float64))
    optimizer = dd.ProdigyScheduleFree([w])
    for _ in range(200):
        w.grad = (w.detach() - goal).sign()
        optimizer.step()
    assert 0.1 < optimizer.d < 3.0
    optimizer.eval()
    assert (w - goal).abs().max() < 0.5
