"""What holds of KT beyond its numbers: its scale, its wealth, and the coordinates of the one that bets for each."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import dadapt_dist as dd

F64 = torch.float64


def gradients(steps: int, scale: float = 1.0) -> list[Tensor]:
    """The largest comes first, so that it sets the unit; they turn now and then."""
    generator = torch.Generator().manual_seed(0)
    drawn = [torch.randn(6, generator=generator, dtype=F64) + (1 if step % 7 else -4) for step in range(steps)]
    first = drawn[0] / drawn[0].norm()
    return [first * scale, *(scale * g / max(1.0, float(g.norm())) * 0.999 for g in drawn[1:])]


def run(made: Any, found: list[Tensor], **options: Any) -> list[Tensor]:
    x = nn.Parameter(torch.linspace(-1, 1, 6, dtype=F64))
    optimizer, way = made([x], **options), []
    for g in found:
        x.grad = g.clone()
        optimizer.step()
        way.append(x.detach().clone())
    return way


def of_paper(found: list[Tensor], wealth: float) -> list[Tensor]:
    """Algorithm 1 of arXiv 1602.04128, whose gradients have norms up to 1: w_t = (ε + Σ⟨c, w⟩)/t·Σ c with c = -g."""
    coins, move, way = torch.zeros(6, dtype=F64), torch.zeros(6, dtype=F64), []
    for t, g in enumerate(found, start=2):
        wealth -= float(g @ move)
        assert wealth > 0
        coins = coins - g
        move = coins * wealth / t
        way.append(torch.linspace(-1, 1, 6, dtype=F64) + move)
    return way


@pytest.mark.parametrize("wealth", [1e-4, 1.0])
def test_kt_is_the_papers_algorithm_where_the_first_gradient_is_the_largest(wealth: float) -> None:
    found = gradients(60)
    for x, expected in zip(run(dd.KT, found, first_wealth=wealth), of_paper(found, wealth), strict=True):
        torch.testing.assert_close(x, expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("made", [dd.KT, dd.CoordinateKT])
def test_the_scale_of_the_loss_does_not_matter(made: Any) -> None:
    base = run(made, gradients(40), **({} if made is dd.KT else {"eps": 1e-30}))
    for scale in (1e-12, 1e9):
        scaled = run(made, gradients(40, scale), **({} if made is dd.KT else {"eps": 1e-30}))
        torch.testing.assert_close(scaled[-1], base[-1], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("before", ["exact", "lagged"])
def test_the_wealth_stays_above_zero_when_all_is_lost(before: Any) -> None:
    """A long streak, then the worst coins; lagged, a bet may be larger than the wealth, and what it leaves is the floor."""
    x = nn.Parameter(torch.zeros(1, dtype=F64))
    optimizer = dd.KT([x], before=before)
    for step in range(60):
        x.grad = torch.full((1,), -1.0 if step < 15 or step % 4 == 0 else 1.0, dtype=F64)
        optimizer.step()
        assert float(optimizer.param_groups[0]["wealth"]) > 0
        assert bool(x.isfinite().all())
    for _ in range(80):  # and it can be won back
        x.grad = torch.full((1,), -1.0, dtype=F64)
        optimizer.step()
    assert float(x.detach()) > 1.0


def test_each_coordinate_bets_as_a_model_of_its_own() -> None:
    found = gradients(30)
    together = run(dd.CoordinateKT, found)[-1]
    for i in range(6):
        x = nn.Parameter(torch.linspace(-1, 1, 6, dtype=F64)[i : i + 1].clone())
        optimizer = dd.KT([x], first_wealth=1e-4)
        for g in found:
            x.grad = g[i : i + 1].clone()
            optimizer.step()
        assert float(x.detach()) == pytest.approx(float(together[i]), rel=1e-9)


def test_a_coordinate_without_a_gradient_uses_up_no_round() -> None:
    x = nn.Parameter(torch.zeros(2))
    optimizer = dd.CoordinateKT([x])
    for step in range(10):
        x.grad = torch.tensor([-1.0, -1.0 if step % 2 else 0.0])
        optimizer.step()
    assert optimizer.state[x]["rounds"].tolist() == [11.0, 6.0]


def test_the_rate_of_kt_is_what_a_gradient_moves_the_weights_by() -> None:
    x = nn.Parameter(torch.zeros(3, dtype=F64))
    optimizer = dd.KT([x], layer_scale=0.5)
    assert optimizer.effective_lr == [0.0]
    g = torch.tensor([3.0, 4.0, 0.0], dtype=F64)
    x.grad = g.clone()
    optimizer.step()
    torch.testing.assert_close(x.detach(), -optimizer.effective_lr[0] * g)
    assert math.isnan(optimizer.d)  # type: ignore[arg-type]
