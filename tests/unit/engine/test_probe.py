"""Check the trial steps that find a first d: against the oracle, through bad gradients, overflows, freezing and a checkpoint."""

import math
from typing import Any

import pytest
import torch
from torch import nn

import dadapt_dist as dd
from tests.helpers.layout_runs import of_oracle
from tests.helpers.models import Tiny, batch, gradients, loss_of
from tests.helpers.oracles import ORACLES
from tests.helpers.resumed import through_a_file

AUTO: dict[str, Any] = {"recipe": "auto", "total_steps": 60, "weight_decay": 0.01}
PROBING, PUTTING_BACK = 1.0, 2.0


def phase(optimizer: dd.Prodigy) -> float:
    assert optimizer.d
    return float(optimizer.param_groups[0]["probe_phase"])


def step(model: nn.Module, optimizer: dd.Prodigy, number: int) -> None:
    optimizer.zero_grad()
    dtype = next(model.parameters()).dtype
    loss_of(model, *batch(number, dtype)).backward()
    optimizer.step()


@pytest.mark.parametrize("bad", [(), (0,), (3,), (2, 3), (6,)], ids=str)
def test_gradients_that_are_not_finite_end_it_and_d_follows_the_oracle(bad: tuple[int, ...]) -> None:
    """A trial step may be too long to have finite gradients after it: the run must not stay there."""
    model, other = Tiny(), Tiny()
    params = list(model.parameters())
    optimizer = dd.Prodigy(params, **AUTO)
    oracle = ORACLES["prodigy"](params, **of_oracle(AUTO))
    for number in range(14):
        mine = gradients(other, [p.detach().clone() for p in params], number)
        right = gradients(other, oracle.params, number)
        for side in (mine, right):
            assert side[0] is not None
            side[0] = side[0].clone()
            if number in bad:
                side[0][0, 0] = math.nan
        for p, g in zip(params, mine, strict=True):
            p.grad = g
        optimizer.step()
        oracle.step(right)
        assert optimizer.d == pytest.approx(oracle.d, rel=1e-10)
    assert all(torch.allclose(p, q, rtol=0, atol=1e-12) for p, q in zip(params, oracle.params, strict=True))
    assert phase(optimizer) == 0
    assert optimizer.step_size.held_steps == len(bad)


@pytest.mark.parametrize("backend", ["auto", "eager"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_the_parameters_go_back_to_where_they_started_to_the_bit(dtype: torch.dtype, backend: str) -> None:
    model = Tiny(dtype=dtype)
    start = [p.detach().clone() for p in model.parameters()]
    optimizer = dd.Prodigy(model.parameters(), backend=backend, **AUTO)
    seen = []
    for number in range(10):
        step(model, optimizer, number)
        seen.append(phase(optimizer))
        if len(seen) > 1 and seen[-2] == PUTTING_BACK:
            assert all(torch.equal(p, q) for p, q in zip(model.parameters(), start, strict=True))
            assert not any(
                optimizer.state[p][n].any() for p in model.parameters() for n in ("exp_avg", "exp_avg_sq", "s")
            )
    assert seen == [PROBING] * seen.count(PROBING) + [PUTTING_BACK] + [0.0] * (9 - seen.count(PROBING))
    assert 2 <= seen.count(PROBING) <= 7
    assert optimizer.d > 1e-4


def test_an_overflow_under_a_scaler_ends_it_too() -> None:
    model = Tiny(dtype=torch.float32)
    start = [p.detach().clone() for p in model.parameters()]
    optimizer, scaler = dd.Prodigy(model.parameters(), **AUTO), torch.amp.GradScaler("cpu", init_scale=4.0)
    for number in range(6):
        optimizer.zero_grad()
        loss = loss_of(model, *batch(number, torch.float32))
        scaler.scale(loss * (math.inf if number in (0, 3) else 1.0)).backward()
        scaler.step(optimizer)
        scaler.update()
        if number == 0:
            assert phase(optimizer) == PROBING, "nothing had moved: the trial steps are not the cause"
        if number == 3:
            assert phase(optimizer) == PUTTING_BACK
        if number == 4:
            assert all(torch.equal(p, q) for p, q in zip(model.parameters(), start, strict=True))
    assert phase(optimizer) == 0


def test_freezing_within_it_is_refused() -> None:
    for length, least in ((60, 8), (None, 9), (20, 4)):
        options = {"total_steps": length, "probe_d0": True}
        with pytest.raises(ValueError, match=f"freeze_after={least - 1}: the first {least} steps"):
            dd.Prodigy(Tiny().parameters(), freeze_after=least - 1, **options)
        model = Tiny()
        start = [p.detach().clone() for p in model.parameters()]
        optimizer = dd.Prodigy(model.parameters(), freeze_after=least, **options)
        for number in range(least):
            step(model, optimizer, number)
        assert all(torch.equal(p, x) for p, x in zip(model.parameters(), start, strict=True))


def test_a_run_that_is_too_short_for_it() -> None:
    assert "probe_d0" not in dd.Prodigy(Tiny().parameters(), recipe="auto", total_steps=9).param_groups[0]
    with pytest.raises(ValueError, match=r"probe_d0=True takes 3 steps.*total_steps=9"):
        dd.Prodigy(Tiny().parameters(), probe_d0=True, total_steps=9)


def test_a_d_that_is_set_ends_it_and_the_parameters_go_back() -> None:
    for taken in (0, 1, 3, 7):
        model = Tiny()
        start = [p.detach().clone() for p in model.parameters()]
        optimizer = dd.Prodigy(model.parameters(), **AUTO)
        for number in range(taken):
            step(model, optimizer, number)
        optimizer.set_d(1e-3)
        assert phase(optimizer) == (PUTTING_BACK if taken else 0)
        step(model, optimizer, taken)
        assert phase(optimizer) == 0
        assert optimizer.d == 1e-3 if taken else optimizer.d >= 1e-3
        at_start = [torch.equal(p, x) for p, x in zip(model.parameters(), start, strict=True)]
        assert all(at_start) if taken else not any(at_start)


def test_a_run_saved_after_every_step_goes_on_to_the_bit() -> None:
    whole, model = Tiny(), Tiny()
    one, other = (dd.Prodigy(m.parameters(), **AUTO) for m in (whole, model))
    for number in range(12):
        step(whole, one, number)
        step(model, other, number)
        saved = through_a_file(other.state_dict())
        other = dd.Prodigy(model.parameters(), **AUTO)
        other.load_state_dict(saved)
        assert one.d == other.d
    assert all(torch.equal(p, q) for p, q in zip(whole.parameters(), model.parameters(), strict=True))


def test_a_d0_slices_or_a_schedule_of_ones_own_leave_it_out() -> None:
    for options in ({"d0": 1e-5}, {"slice_p": 2}, {"total_steps": None}):
        optimizer = dd.Prodigy(Tiny().parameters(), **{**AUTO, **options})
        assert "probe_d0" not in optimizer.param_groups[0]
    with pytest.raises(ValueError, match="slice_p=2 keeps the start of some only"):
        dd.Prodigy(Tiny().parameters(), probe_d0=True, slice_p=2)


def test_what_it_found_is_logged_once(library_log: Any) -> None:
    model = Tiny()
    optimizer = dd.Prodigy(model.parameters(), **AUTO)
    for number in range(20):
        step(model, optimizer, number)
    assert len([text for text in library_log.messages if "the parameters were put back" in text]) == 1


@pytest.mark.parametrize("backend", ["auto", "eager"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_parameters_without_a_gradient_in_the_step_that_puts_back_go_back_too(dtype: torch.dtype, backend: str) -> None:
    """As experts that few batches reach: they were tried in other steps than the last."""
    torch.manual_seed(0)
    params = [nn.Parameter(torch.randn(40, dtype=dtype)) for _ in range(4)]
    start = [p.detach().clone() for p in params]
    optimizer = dd.Prodigy(params, backend=backend, **AUTO)
    for _ in range(14):
        before = phase(optimizer)
        for index, p in enumerate(params):
            p.grad = None if index == 1 and before == PUTTING_BACK else p.detach() - 1
        if before == PUTTING_BACK:
            params[2].requires_grad_(False).grad = None
        params[3].grad = None
        moved = [not torch.equal(p, x) for p, x in zip(params, start, strict=True)]
        optimizer.step()
        if before == PUTTING_BACK:
            assert moved == [True, True, True, False]
            assert all(torch.equal(p, x) for p, x in zip(params, start, strict=True))
            assert not any(optimizer.state[p][n].any() for p in params for n in ("exp_avg", "exp_avg_sq", "s"))
            rms = optimizer.step_size._rms
            assert rms is not None
            assert rms.local.tolist() == pytest.approx([float(x.double().square().sum()) for x in start], rel=1e-12)
            return
    raise AssertionError("nothing was put back")


OTHERS: list[dict[str, Any]] = [
    {"rms_cap": 0.5},
    {"rms_cap": 1e-3},
    {"total_steps": 23},
    {"total_steps": 10},
    {"weight_decay": 3.0},
    {"recipe": None, "probe_d0": True, "total_steps": None},
    {"recipe": None, "probe_d0": True, "exact_bias_correction": True, "d_coef": 0.5, "rms_cap": 0.3},
]


@pytest.mark.parametrize("options", OTHERS, ids=str)
def test_other_caps_lengths_and_parts_follow_the_oracle(options: dict[str, Any]) -> None:
    """Trial steps are bounded whatever the cap of the other steps is, and take no decay, which nothing would bound."""
    model, other = Tiny(), Tiny()
    params = list(model.parameters())
    optimizer = dd.Prodigy(params, **AUTO | options)
    oracle = ORACLES["prodigy"](params, **of_oracle(AUTO | options))
    phases = []
    for number in range(14):
        for p, g in zip(params, gradients(other, [p.detach().clone() for p in params], number), strict=True):
            p.grad = g
        right = gradients(other, oracle.params, number)
        optimizer.step()
        oracle.step(right)
        assert optimizer.d == pytest.approx(oracle.d, rel=1e-10)
        phases.append(phase(optimizer))
    assert all(torch.allclose(p, q, rtol=0, atol=1e-12) for p, q in zip(params, oracle.params, strict=True))
    assert phases.count(PUTTING_BACK) == 1
    assert phases[-1] == 0


def test_an_estimate_that_begins_late_is_put_back_too() -> None:
    """Its trials are counted from its own first step, which may come after any number of those of others."""
    a, b = (nn.Parameter(torch.randn(4)) for _ in range(2))
    start = b.detach().clone()
    optimizer = dd.Prodigy([a, b], step_size=dd.StepSize(estimates="per_tensor"), recipe="auto", total_steps=1000)
    for number in range(100):
        back = optimizer.step_size.steps > 0 and float(optimizer.param_groups[0]["probe_phase"][1]) == PUTTING_BACK
        a.grad = a.detach().clone()
        b.grad = b.detach().clone() if number >= 75 and not back else None
        optimizer.step()
        if back:
            assert torch.equal(b, start)
            return
    raise AssertionError("nothing was put back")


def test_estimates_that_are_declared_and_that_some_group_alone_probes() -> None:
    for name in "ab":
        w = nn.Parameter(torch.ones(4))
        group = {"params": [w], "estimate": name, "total_steps": 100, "probe_d0": True}
        optimizer = dd.Prodigy([group], step_size=dd.StepSize(estimates=["a", "b"]))
        for _ in range(12):
            w.grad = w.detach() + 1
            optimizer.step()
        assert optimizer.step_size.d[name] > 1e-4


def test_an_optimizer_that_a_window_leaves_out_is_put_back_with_the_others() -> None:
    step_size = dd.StepSize()
    params = [nn.Parameter(torch.randn(4)) for _ in range(2)]
    start = [p.detach().clone() for p in params]
    optimizers = [dd.Prodigy([p], step_size=step_size, recipe="auto", total_steps=100) for p in params]
    for number in range(12):
        back = float(step_size._scalars.values["probe_phase"]) == PUTTING_BACK
        p, optimizer = params[number % 2], optimizers[number % 2]
        p.grad = p.detach().clone()
        with step_size.window():
            optimizer.step()
        if back:
            assert all(torch.equal(q, x) for q, x in zip(params, start, strict=True))
            return
        assert step_size.d
    raise AssertionError("nothing was put back")


def test_no_run_looks_for_trials_that_are_over() -> None:
    model = Tiny()
    for options in ({}, AUTO):
        optimizer = dd.Prodigy(model.parameters(), **options)
        for number in range(11):
            step(model, optimizer, number)
        assert optimizer.step_size._trials.over
