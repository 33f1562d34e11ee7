"""NGN, MoMo and MoMo-Adam on real losses: the papers' formulas, losses that are missing or too small, and huge caps."""

import logging
import math
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import dadapt_dist as dd
from tests.helpers.classes import no_usual_loss
from tests.helpers.models import Tiny, batch, gradients, loss_of
from tests.helpers.oracles import ORACLES

STEPS = 30
CHANNEL = "dadapt_dist.engine.loss_channel"
LOSS_AWARE = ["ngn", "momo", "momo_adam"]
Weights = list[Tensor]


@pytest.fixture(autouse=True)
def _no_usual_loss() -> Iterator[None]:
    with no_usual_loss():
        yield


def train(name: str, **options: Any) -> Iterator[tuple[nn.Module, Any, float]]:
    model = Tiny()
    optimizer = getattr(dd.optimizers, name)(model.parameters(), **options)
    for step in range(STEPS):
        optimizer.zero_grad()
        loss = loss_of(model, *batch(step))
        loss.backward()
        optimizer.step(loss=loss)
        yield model, optimizer, loss.item()


def flat(tensors: Any) -> Tensor:
    return torch.cat([t.detach().flatten() for t in tensors])


def momo_adam(cap: float, decay: float, lb: float) -> Callable[[Weights, Weights, float], None]:
    """Algorithm 4 with its three averages: of the loss, of the gradient, and of ⟨g, x⟩."""
    state: dict[str, Any] = {"k": 0, "f": 0.0, "gamma": 0.0}

    def step(xs: Weights, gs: Weights, f: float) -> None:
        x, g = flat(xs), flat(gs)
        k = state["k"] = state["k"] + 1
        d = state["d"] = 0.9 * state.get("d", 0) + 0.1 * g
        v = state["v"] = 0.999 * state.get("v", 0) + 0.001 * g * g
        state["f"] = 0.9 * state["f"] + 0.1 * f
        state["gamma"] = 0.9 * state["gamma"] + 0.1 * float(g @ x)
        rho, metric = 1 - 0.9**k, 1e-8 + (v / (1 - 0.999**k)).sqrt()
        part = 1 + cap * decay
        above = part * (state["f"] - rho * lb) + float(d @ x) - part * state["gamma"]
        tau = min(cap / rho, max(above, 0.0) / float(d @ (d / metric)))
        put((x - tau * d / metric) / part, xs)

    return step


def ngn(cap: float, precondition: bool) -> Callable[[Weights, Weights, float], None]:
    """NGN-MDv1, or NGN-M without D."""
    state: dict[str, Any] = {"k": 0}

    def step(xs: Weights, gs: Weights, f: float) -> None:
        x, g = flat(xs), flat(gs)
        k = state["k"] = state["k"] + 1
        v = state["v"] = 0.999 * state.get("v", 0) + 0.001 * g * g
        metric = 1e-8 + (v / (1 - 0.999**k)).sqrt() if precondition else torch.ones_like(g)
        gamma = cap / (1 + cap / (2 * f) * float(g @ (g / metric)))
        before = state.get("x", x)
        state["x"] = x
        put(x - 0.1 * gamma * g / metric + 0.9 * (x - before), xs)

    return step


def put(x: Tensor, xs: Weights) -> None:
    for part, whole in zip(x.split([p.numel() for p in xs]), xs, strict=True):
        whole.copy_(part.view_as(whole))


FORMULAS: list[tuple[str, dict[str, Any], Any]] = [
    ("MoMoAdam", {"cap": 1.0}, momo_adam(1.0, 0.0, 0.0)),
    ("MoMoAdam", {"cap": 0.5, "weight_decay": 0.1, "lb": 0.4}, momo_adam(0.5, 0.1, 0.4)),
    ("NGN", {}, ngn(1.0, True)),
    ("NGN", {"cap": 30.0, "precondition": False}, ngn(30.0, False)),
]


@pytest.mark.parametrize(
    ("name", "options", "judge"),
    FORMULAS,
    ids=lambda value: value.__qualname__.split(".")[0] if callable(value) else str(value)[:40],
)
def test_a_run_is_that_of_the_papers_formulas(name: str, options: dict[str, Any], judge: Any) -> None:
    wanted, shares = [p.detach().clone() for p in Tiny().parameters()], []
    for step, (model, optimizer, loss) in enumerate(train(name, **options)):
        found = gradients(Tiny(), wanted, step)
        judge(wanted, found, loss)
        torch.testing.assert_close(flat(model.parameters()), flat(wanted), rtol=1e-9, atol=1e-11)
        shares.append(optimizer.step_size._value("default", "share"))
    assert min(shares) < 0.9, "the largest step was taken throughout: the comparison would say little"


@pytest.mark.parametrize("key", LOSS_AWARE)
def test_groups_with_real_losses_follow_the_oracle(key: str) -> None:
    model = Tiny()
    params = [*model.parameters()]
    groups = [
        {"indices": [0, 2, 4, 6], "layer_scale": 3.0},
        {"indices": [1, 3, 5, 7, 8, 9], "lr": 0.5, "weight_decay": 0.1},
    ]
    oracle = ORACLES[key](params, groups, cap=2.0)
    optimizer: Any = dd.optimizers.of_method(key)(
        [
            {**{n: v for n, v in g.items() if n != "indices"}, "params": [params[i] for i in g["indices"]]}
            for g in groups
        ],
        cap=2.0,
    )
    for step in range(STEPS):
        optimizer.zero_grad()
        loss = loss_of(model, *batch(step))
        loss.backward()
        oracle.loss = loss.item()
        oracle.step([p.grad for p in params])
        optimizer.step(loss=loss)
        torch.testing.assert_close(flat(params), flat(oracle.params), rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("key", LOSS_AWARE)
def test_a_step_without_a_loss_is_refused_and_leaves_no_trace(key: str) -> None:
    params, runs = [nn.Parameter(torch.ones(3)) for _ in range(2)], []
    for p, forgets in zip(params, (True, False), strict=True):
        optimizer = dd.optimizers.of_method(key)([p])
        for step in range(4):
            p.grad = torch.ones(3) * (step + 1)
            if forgets:
                with pytest.raises(
                    ValueError, match=r"no rank gave the loss of a step .*Nothing has moved in this step"
                ):
                    optimizer.step()
            optimizer.step(loss=2.0 - 0.1 * step)
        runs.append((p.tolist(), str(optimizer.state_dict())))
    assert runs[0] == runs[1]


@pytest.mark.parametrize("key", LOSS_AWARE)
def test_a_loss_below_its_bound_moves_nothing_and_is_told_of_once(key: str, caplog: pytest.LogCaptureFixture) -> None:
    p = nn.Parameter(torch.ones(3))
    optimizer = dd.optimizers.of_method(key)([p], lb=-1.0)
    with caplog.at_level(logging.WARNING, CHANNEL):
        for loss, moves in ((-2.0, False), (-2.0, False), (-0.5, key == "ngn"), (40.0, True)):
            before, p.grad = p.detach().clone(), torch.ones(3)
            optimizer.step(loss=loss)
            assert torch.equal(p.detach(), before) is not moves
    assert caplog.text.count("below lb") == 1


@pytest.mark.parametrize("key", LOSS_AWARE)
def test_a_cap_that_is_a_thousand_times_too_large_does_not_diverge(key: str) -> None:
    """On a quadratic whose curvature bounds plain gradient descent by 2e-2."""
    p = nn.Parameter(torch.linspace(1, 3, 20, dtype=torch.float64))
    optimizer = dd.optimizers.of_method(key)([p], cap=20.0)
    curvatures = torch.logspace(0, 2, 20, dtype=torch.float64)
    losses = []
    for _ in range(200):
        optimizer.zero_grad()
        loss = 0.5 * (curvatures * p.square()).sum()
        loss.backward()
        optimizer.step(loss=loss)
        losses.append(loss.item())
    assert math.isfinite(losses[-1])
    assert losses[-1] < 0.1 * losses[0]
