"""clip_norm in one process: the numbers of torch's clip_grad_norm_, what it leaves alone, and bad gradients and settings."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

import dadapt_dist as dd
from dadapt_dist.kernels import eager
from dadapt_dist.methods import METHODS
from dadapt_dist.methods.by_power import DECAY, PARTS, by_power
from tests.helpers.classes import ALL, ALWAYS_BEFORE, COMPILED, RIDES, parts
from tests.helpers.kernel_cases import coefficients_of, options_of, task_of
from tests.helpers.oracles.released import Problem, flat, grouped

NORM = 0.5  # of gradients of about 5


def train(
    method: str, ours: bool, dtype: torch.dtype = torch.float64, norm: float = NORM, size: float = 1.0, **options: Any
) -> torch.Tensor:
    """The parameters after some steps. size: what gradients are multiplied by."""
    problem = Problem()
    xs, groups = grouped([start.to(dtype) for start in problem.starts], None)
    given = {"clip_norm": norm} if ours else {}
    optimizer = ALL[method](groups, **given, **(parts(method) | options))
    for step in range(15):
        for x, g in zip(xs, problem.gradients(step, [x.double() for x in xs]), strict=True):
            x.grad = None if (step % 4 == 3 and x is xs[1]) or g is None else g.to(dtype) * size
        if not ours:
            nn.utils.clip_grad_norm_(xs, norm)
        optimizer.step()
    return flat(xs)


@pytest.mark.parametrize("method", ALL)
def test_a_step_is_that_of_gradients_clipped_by_torch(method: str) -> None:
    torch.testing.assert_close(train(method, True), train(method, False), rtol=1e-10, atol=1e-12)
    if method != "dadapt_lion":  # which sees signs alone
        assert not torch.allclose(train(method, True), train(method, True, norm=1e9), rtol=1e-3)


def test_the_norm_rides_wherever_sums_are_polynomials_of_the_gradient() -> None:
    """Of the others Mechanic may have Adam's or Lion's u in its sums, NGN and MoMoAdam have Adam's metric."""
    assert {*ALWAYS_BEFORE} - {*RIDES} == {"mechanic_adam", "mechanic_lion", "ngn", "momo_adam"}


@pytest.mark.parametrize("size", [1e-9, 1e9, 1e40])
@pytest.mark.parametrize("method", RIDES)
def test_gradients_of_any_size_are_clipped_to_the_last_digits(method: str, size: float) -> None:
    found = train(method, True, norm=NORM * min(size, 1.0), size=size)
    expected = train(method, False, norm=NORM * min(size, 1.0), size=size)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("options", [{"weight_decay": 0.0}, {"variant": "authors", "momentum": 0.5}], ids=str)
def test_options_on_which_sums_depend(options: dict[str, Any]) -> None:
    for method in RIDES:
        if {*options} <= {*METHODS[method].options.checks()}:
            found, expected = train(method, True, **options), train(method, False, **options)
            torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("method", RIDES)
def test_sums_are_the_polynomials_that_their_methods_say(method: str) -> None:
    plain, options = METHODS[method](), options_of(method)
    c, split = coefficients_of(plain, options), by_power(plain)
    decay = plain.coupled_decay(options)
    task = task_of(method, 200, options=options, param=torch.float64, gradient=torch.float64, decay=decay)
    assert split.before is not None
    parts_of = eager.measure(split, [task], c | {DECAY: decay or None})[:-1].view(PARTS, -1)
    for t in (0.0, 0.1, 0.7, 1.0, 3.0):
        whole = eager.measure(plain, [replace(task, g=task.g * t)], c)[:-1]
        found = parts_of[1] + t * parts_of[2] + t * t * parts_of[3]
        assert torch.allclose(found, whole, rtol=1e-11, atol=1e-13 * float(parts_of.abs().max()))
        if t == 1:
            assert torch.equal(parts_of[0], whole)


@pytest.mark.parametrize("backend", ["c", "eager"])
@pytest.mark.parametrize("method", COMPILED)
def test_compiled_and_plain_steps_clip_alike(method: str, backend: str) -> None:
    found = train(method, True, torch.float32, backend=backend)
    torch.testing.assert_close(found, train(method, False, torch.float32, backend=backend), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("method", [*COMPILED, "dog", "ngn"])
def test_a_norm_that_is_not_reached_changes_no_bit(method: str) -> None:
    for dtype in (torch.float32, torch.float64):
        assert torch.equal(train(method, True, dtype, norm=1e6), train(method, False, dtype, norm=1e9))


def test_gradients_stay_as_they_are() -> None:
    p = nn.Parameter(torch.ones(4))
    p.grad = torch.full((4,), 9.0)
    dd.Prodigy([p], clip_norm=1.0).step()
    assert torch.equal(p.grad, torch.full((4,), 9.0))


def test_the_norm_is_over_all_optimizers_of_a_step_size_but_not_over_groups_that_stay() -> None:
    step_size = dd.StepSize(clip_norm=1.0)
    ps = [nn.Parameter(torch.zeros(1, dtype=torch.float64)) for _ in range(3)]
    one = dd.optimizers.MoMo([ps[0]], step_size=step_size)
    other = dd.optimizers.MoMo([{"params": [ps[1]]}, {"params": [ps[2]], "lr": 0.0}], step_size=step_size)
    for p, g in zip(ps, (3.0, 4.0, 100.0), strict=True):
        p.grad = torch.full((1,), g, dtype=torch.float64)
    one.loss = other.loss = 1e6  # so that whole steps of 1 are taken
    one.step()
    other.step()
    assert [p.item() for p in ps] == pytest.approx([-3 / (5 + 1e-6), -4 / (5 + 1e-6), 0.0], rel=1e-12)


@pytest.mark.parametrize("method", ["prodigy", "dog", "cocob"])
def test_elements_that_are_not_finite_are_left_out_of_the_norm(method: str) -> None:
    found = []
    for bad in (math.nan, math.inf, 0.0):
        p = nn.Parameter(torch.ones(5))
        optimizer = ALL[method]([p], clip_norm=1.0, **parts(method))
        for _ in range(3):
            p.grad = torch.tensor([3.0, 4.0, 3.0, 4.0, 1.0])
            optimizer.step()
        p.grad = torch.tensor([3.0, 4.0, 0.0, 0.0, bad])
        optimizer.step()
        assert bool(torch.isfinite(p).all())
        found.append(p.detach()[:4].clone())
        assert optimizer.step_size.held_steps == (bad != 0)
    assert torch.equal(found[0], found[1])
    if method != "dog":  # whose step depends on the norm, which is not known in such a step
        assert torch.equal(found[0], found[2])


@pytest.mark.parametrize("method", ["prodigy", "cocob", *RIDES])
def test_an_element_that_is_too_large_to_be_squared_is_clipped(method: str) -> None:
    p = nn.Parameter(torch.ones(3))
    optimizer = ALL[method]([p], clip_norm=1.0, **parts(method))
    for _ in range(3):
        p.grad = torch.tensor([1.0, 3e38, 0.0])
        optimizer.step()
    assert bool(torch.isfinite(p).all())
    assert p[1] != 1
    assert optimizer.step_size.held_steps == 0


def test_skip_and_raise_do_with_a_bad_gradient_what_they_always_do() -> None:
    p, q = (nn.Parameter(torch.ones(2)) for _ in range(2))
    p.grad, q.grad = (torch.tensor([1.0, math.inf]) for _ in range(2))
    dd.Prodigy([p], clip_norm=1.0, nonfinite="skip").step()
    with pytest.raises(dd.NonFiniteError):
        dd.Prodigy([q], clip_norm=1.0, nonfinite="raise").step()
    assert torch.equal(p.detach(), torch.ones(2))
    assert torch.equal(q.detach(), torch.ones(2))


def test_under_a_scaler_the_norm_is_that_of_unscaled_gradients() -> None:
    found = []
    for scaled in (True, False):
        p = nn.Parameter(torch.ones(4))
        optimizer = dd.Prodigy([p], d0=1e-2, clip_norm=0.7)
        scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, enabled=scaled)
        for step in range(4):
            optimizer.zero_grad()
            loss = ((p - 3) * torch.arange(1.0, 5.0)).square().sum()
            if scaled and step == 2:
                loss = loss * math.inf
            elif step == 2:
                continue
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update(1024.0 if scaled else None)
        found.append(p.detach().clone())
    torch.testing.assert_close(*found, rtol=1e-6, atol=0)


def test_sparse_gradients_are_clipped() -> None:
    found = []
    for ours in (True, False):
        p = nn.Parameter(torch.ones(4, 2))
        optimizer = dd.DAdaptAdaGrad([p], d0=1e-2, **({"clip_norm": 1.0} if ours else {}))
        for _ in range(3):
            values = torch.tensor([[3.0, 0.0], [0.0, 4.0], [0.0, 0.0]]) / (1 if ours else 5.0)
            p.grad = torch.sparse_coo_tensor(torch.tensor([[0, 2, 2]]), values, (4, 2), check_invariants=True)
            optimizer.step()
        found.append(p.detach().clone())
    torch.testing.assert_close(*found, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("value", [0, -1.0, math.nan, math.inf, "1.0", True, [1.0]])
def test_a_norm_that_cannot_be_is_refused(value: Any) -> None:
    optimizer = dd.Prodigy([nn.Parameter(torch.ones(2))], clip_norm=2)
    for attempt in (
        lambda: dd.Prodigy([nn.Parameter(torch.ones(2))], clip_norm=value),
        lambda: setattr(optimizer.step_size, "clip_norm", value),
    ):
        with pytest.raises(ValueError, match=r"clip_norm=.* must be a number > 0, or None"):
            attempt()
    assert optimizer.step_size.clip_norm == 2.0


def test_it_may_be_set_between_steps() -> None:
    p = nn.Parameter(torch.zeros(1, dtype=torch.float64))
    optimizer = dd.optimizers.MoMo([p], beta=0.0)
    for norm, way in ((None, 8.0), (2.0, 2.0), (None, 8.0), (1.0, 1.0)):
        optimizer.step_size.clip_norm = norm
        before, p.grad = p.item(), torch.full((1,), 8.0, dtype=torch.float64)
        optimizer.step(loss=1e6)
        assert before - p.item() == pytest.approx(way, rel=1e-6)


@pytest.mark.parametrize("wrapper", [dd.TRAC, dd.Mechanic])
def test_the_base_of_a_wrapper_sees_clipped_gradients(wrapper: Any) -> None:
    found = []
    for ours in (True, False):
        p = nn.Parameter(torch.zeros(3, dtype=torch.float64))
        optimizer = wrapper(torch.optim.SGD([p], momentum=0.5), s_init=1e-3, **({"clip_norm": NORM} if ours else {}))
        for step in range(6):
            p.grad = (p.detach() - torch.arange(1.0, 4.0)) * (1 + step)
            if not ours:
                nn.utils.clip_grad_norm_([p], NORM)
            optimizer.step()
        found.append(p.detach())
    torch.testing.assert_close(*found, rtol=1e-10, atol=0)
    assert found[0].any()
