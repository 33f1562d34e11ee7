"""Check that groups with equal options cost what one group costs and give the same bits, by counting calls."""

import cProfile
import pstats
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import dadapt_dist as dd
from dadapt_dist import kernels
from dadapt_dist.engine.option_sets import STAYS, Lots
from dadapt_dist.methods import METHODS
from tests.helpers.classes import ALL, make

Params = list[torch.nn.Parameter]
SHAPES = [(7,), (3, 5), (300,), (2, 2, 2), (1,), (70, 11)] * 3
GENERATOR_SEED = 5


def parameters(seed: int = 0) -> Params:
    generator = torch.Generator().manual_seed(seed)
    return [torch.nn.Parameter(torch.randn(shape, generator=generator)) for shape in SHAPES]


def gradients(params: Params, step: int) -> None:
    generator = torch.Generator().manual_seed(100 + step)
    for p in params:
        p.grad = p.detach() + 0.3 * torch.randn(p.shape, generator=generator)


class Calls:
    """Counts the calls of kernels."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.counts: list[int] = []
        for kernel in (kernels.cpu_c, kernels.triton_launch, kernels.eager):
            monkeypatch.setattr(kernel, "run", self._counting(kernel.run))

    def _counting(self, run: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*args: Any) -> Any:
            self.counts[-1] += 1
            return run(*args)

        return counted


def train(
    optimizer: Any, params: Params, calls: Calls | None = None, schedule: Any = None, steps: int = 5
) -> tuple[list[Tensor], Any]:
    for step in range(steps):
        if schedule is not None:
            schedule(optimizer, step)
        gradients(params, step)
        if calls is not None:
            calls.counts.append(0)
        optimizer.step()
    return [p.detach().clone() for p in params], optimizer.d


def same(a: tuple[list[Tensor], Any], b: tuple[list[Tensor], Any]) -> bool:
    return (a[1] == b[1] or (a[1] != a[1] and b[1] != b[1])) and all(
        torch.equal(x, y) for x, y in zip(a[0], b[0], strict=True)
    )


def one_each(params: Params, **options: Any) -> list[dict[str, Any]]:
    return [{"params": [p], **options} for p in params]


def falling(optimizer: Any, step: int) -> None:
    """As a scheduler does: every group's lr anew, all to the same value."""
    for group in optimizer.param_groups:
        group["lr"] = 1.0 - 0.1 * step


@pytest.mark.parametrize("backend", ["auto", "eager"])
@pytest.mark.parametrize("schedule", [None, falling])
@pytest.mark.parametrize("method", ALL)
def test_a_group_for_each_parameter_is_one_call_and_the_same_bits_as_one_group(
    method: str, schedule: Any, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls, params, others = Calls(monkeypatch), parameters(), parameters()
    many = train(make(method, one_each(params), 1e-2, backend=backend), params, calls, schedule)
    assert calls.counts == [1] * 5
    assert same(many, train(make(method, others, 1e-2, backend=backend), others, calls, schedule))


def test_groups_that_differ_are_apart_and_each_trains_by_its_own_options(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every third group has its own weight decay, every third no lr: what one call for each group comes to."""
    options = [{"weight_decay": 0.1}, {"lr": 0.0}, {}]
    calls, params, others = Calls(monkeypatch), parameters(), parameters()
    groups = [{"params": [p]} | options[index % 3] for index, p in enumerate(params)]
    many = train(dd.Prodigy(groups, d0=1e-2), params, calls)
    assert calls.counts == [2] * 5
    thirds = [{"params": others[index::3]} | options[index] for index in range(3)]
    assert same(many, train(dd.Prodigy(thirds, d0=1e-2), others, calls))


def test_groups_of_different_estimates_are_never_joined(monkeypatch: pytest.MonkeyPatch) -> None:
    calls, params, others = Calls(monkeypatch), parameters(), parameters()
    groups = [{"params": [p], "estimate": "ab"[index % 2]} for index, p in enumerate(params)]
    (values, d) = train(dd.Prodigy(groups, d0=1e-2), params, calls)
    assert calls.counts == [2] * 5
    for index, name in enumerate("ab"):
        mine = others[index::2]
        optimizer = dd.Prodigy(mine, d0=1e-2)
        for step in range(5):
            gradients(others, step)
            calls.counts.append(0)
            optimizer.step()
        assert d[name] == optimizer.d
        assert all(torch.equal(a, b) for a, b in zip(values[index::2], mine, strict=True))


CHANGES: dict[str, Callable[[list[dict[str, Any]]], None]] = {
    "lr of one": lambda groups: groups[4].__setitem__("lr", 0.5),
    "lr of one, behind the group's back": lambda groups: dict.__setitem__(groups[4], "lr", 0.5),
    "lr of one to 0": lambda groups: groups[4].__setitem__("lr", 0.0),
    "weight decay of some": lambda groups: [g.update(weight_decay=0.2) for g in groups[::2]] and None,
    "betas of one": lambda groups: groups[1].__setitem__("betas", [0.8, 0.99]),
    "maximize": lambda groups: groups[2].__setitem__("maximize", True),
    "coupled decay": lambda groups: groups[3].update(decouple=False, weight_decay=0.1),
    "growth_rate of all": lambda groups: [g.update(growth_rate=1.01) for g in groups] and None,
    "d_coef of all": lambda groups: [g.update(d_coef=0.5) for g in groups] and None,
}


@pytest.mark.parametrize("change", CHANGES)
def test_an_option_that_changes_in_the_middle_counts_from_the_next_step_on(change: str) -> None:
    """Compared with an optimizer whose groups are looked at anew in every step."""

    def schedule(optimizer: Any, step: int) -> None:
        if step == 3:
            CHANGES[change](optimizer.param_groups)
        if forgetful:
            optimizer._join()

    results = []
    for forgetful in (False, True, None):
        params = parameters()
        optimizer = dd.Prodigy(one_each(params), d0=1e-2)
        results.append(train(optimizer, params, None, None if forgetful is None else schedule, steps=7))
    assert same(results[0], results[1])
    assert not same(results[0], results[2])


def test_an_lr_that_is_changed_in_place_and_one_of_any_kind_of_number(monkeypatch: pytest.MonkeyPatch) -> None:
    calls, params, others = Calls(monkeypatch), parameters(), parameters()
    lr = torch.tensor(1.0)

    def in_place(optimizer: Any, step: int) -> None:
        lr.fill_(1.0 - 0.125 * step)

    def plain(optimizer: Any, step: int) -> None:
        for index, group in enumerate(optimizer.param_groups):
            group["lr"] = 1 if step == 0 and index % 2 else 1.0 - 0.125 * step

    many = train(dd.Prodigy(one_each(params, lr=lr), d0=1e-2), params, calls, in_place)
    assert same(many, train(dd.Prodigy(one_each(others), d0=1e-2), others, calls, plain))
    assert calls.counts == [1] * 10


def test_lots_leave_nothing_in_a_group_that_may_change_by_itself() -> None:
    eps = torch.tensor(1e-8, dtype=torch.float64)
    groups = [{"lr": 1.0, "eps": eps, "betas": [0.9, 0.99]}, {"lr": 1.0, "eps": 1e-8, "betas": (0.9, 0.99)}]
    lots = Lots(("lr", "eps", "betas"), METHODS["prodigy"].options.checks(), "Some")
    lots.look(groups)
    assert groups == [{"lr": 1.0, "eps": 1e-8, "betas": (0.9, 0.99)}] * 2
    assert type(groups[0]["eps"]) is float
    assert lots.of == [0, 0]
    version = lots.version
    lots.look(groups)
    assert lots.version == version
    groups[0]["betas"] = [0.5, 0.99]
    lots.look(groups)
    assert lots.version != version
    assert lots.of == [0, 1]
    assert groups[0]["betas"] == (0.5, 0.99)
    groups[1]["betas"] = [0.5, 2.0]
    with pytest.raises(ValueError, match=r"Some group 1: betas=\[0\.5, 2\.0\] is out of range"):
        lots.look(groups)
    groups[1]["betas"] = (0.9, 0.99)
    groups[0]["lr"] = 0
    lots.look(groups)
    assert lots.of == [STAYS, 0]
    assert lots.moves


@pytest.mark.parametrize("lr", [-1.0, float("nan"), float("inf"), "1", None])
def test_an_lr_that_cannot_be_right_names_the_group_and_moves_nothing(lr: Any) -> None:
    params = parameters()
    optimizer = dd.Prodigy(one_each(params), d0=1e-2)
    train(optimizer, params)
    before = [p.detach().clone() for p in params]
    optimizer.param_groups[7]["lr"] = lr
    gradients(params, 5)
    for _ in range(2):
        with pytest.raises(ValueError, match="Prodigy group 7: lr="):
            optimizer.step()
    assert all(torch.equal(p, was) for p, was in zip(params, before, strict=True))
    optimizer.param_groups[7]["lr"] = 1.0
    optimizer.step()
    assert not torch.equal(params[7], before[7])


def calls_of_a_step(optimizer: Any, schedule: Any) -> int:
    """Calls of functions, in Python and C, in one step after the first few."""
    for step in range(4):
        if schedule is not None:
            schedule(optimizer, step)
        optimizer.step()
    if schedule is not None:
        schedule(optimizer, 4)
    profile = cProfile.Profile()
    profile.enable()
    optimizer.step()
    profile.disable()
    return int(pstats.Stats(profile).total_calls)  # type: ignore[attr-defined]


@pytest.mark.parametrize("schedule", [None, falling])
def test_a_further_group_costs_next_to_nothing(schedule: Any) -> None:
    """In calls of functions: 5, all of C; 130 when every group had a call of the kernel for itself."""
    counts = []
    for groups in (1, 400):
        params = [torch.nn.Parameter(torch.ones(4)) for _ in range(400)]
        for p in params:
            p.grad = torch.ones(4)
        optimizer = dd.Prodigy(params if groups == 1 else one_each(params), d0=1e-2)
        counts.append(calls_of_a_step(optimizer, schedule))
    assert counts[1] - counts[0] < 400 * 8
