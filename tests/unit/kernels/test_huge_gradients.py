"""Check that finite gradients of any size leave everything finite and d able to move, equally on all backends."""

from typing import Any

import pytest
import torch

from dadapt_dist.kernels import cpu_c, eager
from dadapt_dist.methods import METHODS
from tests.helpers.backends import BACKENDS, quietly
from tests.helpers.classes import ALL, COMPILED, SLOW, SQUARES_NOTHING, WITH_D, first_d
from tests.helpers.kernel_cases import coefficients_of, copied, options_of, task_of

pytestmark = quietly

HUGE = [1e15, 1e18, 1e19, 1.9e19, -1e20, 1e25, 1e30, -1e38, 3e38]
SIZE = 300


def gradient(p: torch.Tensor, step: int) -> torch.Tensor:
    noise = torch.randn(p.shape, generator=torch.Generator().manual_seed(step)) * 0.1
    return (torch.ones(p.shape) + noise).to(p.dtype)


def run(key: str, backend: str, at: dict[int, float], dtype: torch.dtype = torch.float32, **options: Any) -> Any:
    """Twelve steps, with a first gradient element of this size at some of them."""
    torch.manual_seed(0)
    p = torch.nn.Parameter(torch.randn(SIZE, dtype=dtype))
    optimizer = ALL[key]([p], **first_d(key, 1e-4), backend=backend, **options)
    for step in range(12):
        p.grad = gradient(p, step)
        if step in at:
            p.grad[0] = at[step]
        optimizer.step()
    return p.detach(), optimizer


def everything(optimizer: Any) -> list[torch.Tensor]:
    [state] = optimizer.state.values()
    return [*state.values(), *optimizer.step_size._scalars.values.values()]


@pytest.mark.slow
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("key", ALL)
def test_everything_stays_finite_and_what_overflows_acts_as_if_it_were_not_finite(key: str, backend: str) -> None:
    for step in (0, 4):
        nan, of_nan = run(key, backend, {step: float("nan")})
        for value in HUGE:
            p, optimizer = run(key, backend, {step: value})
            held = optimizer.step_size.held_steps
            assert all(bool(t.isfinite().all()) for t in (p, *everything(optimizer))), (step, value)
            assert held <= 1
            if held:  # bit for bit a run with NaN there: this element and this step alone
                assert torch.equal(p, nan)
                assert optimizer.d == of_nan.d or key not in WITH_D
        assert of_nan.d > 1e-4 or key in SLOW or key not in WITH_D
        assert held or key in SQUARES_NOTHING, "3e38 squared overflows"


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("key", ALL)
def test_huge_gradients_step_after_step(key: str, backend: str) -> None:
    """AdaGrad adds squares up, and every one alone fits."""
    at = dict(enumerate([1e19, -1.8e19, 1.8e19, 1e19, 3e38, 1e19, 1.8e19, 1e19]))
    for dtype in (torch.float32, torch.bfloat16):
        p, optimizer = run(key, backend, at, dtype, statistics_dtype=dtype)
        assert all(bool(t.isfinite().all()) for t in (p, *everything(optimizer)))


@pytest.mark.parametrize("key", ALL)
def test_float64_overflows_later(key: str) -> None:
    for value in (1e150, 1e160, 1e300):
        p, optimizer = run(key, "eager", {0: value, 4: value}, torch.float64)
        assert all(bool(t.isfinite().all()) for t in (p, *everything(optimizer))), value


@pytest.mark.skipif(len(BACKENDS) == 1, reason="no other backend")
@pytest.mark.parametrize("backend", BACKENDS[1:])
@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"decay": 0.1, "maximize": True},
        {"scale": torch.tensor(8.0)},
        {"param": torch.bfloat16, "gradient": torch.bfloat16, "statistics": torch.bfloat16},
        {"param": torch.float16},
    ],
    ids=lambda fields: "-".join(fields) or "plain",
)
@pytest.mark.parametrize("key", COMPILED)
def test_backends_take_the_same_decision(key: str, fields: dict[str, Any], backend: str) -> None:
    from dadapt_dist.kernels import triton_launch

    kernel: Any = {"c": cpu_c, "triton": triton_launch}[backend]
    if fields.get("param") is torch.float16 and not cpu_c.has_half():
        pytest.skip("the compiler has no float16")
    method, options = METHODS[key](), options_of(key)
    task = task_of(key, 700, options=options, **fields)
    task.g[: 3 * len(HUGE) : 3] = torch.tensor(HUGE).to(task.g.dtype)
    task.g[500] = float("nan")
    other, c = copied(task), coefficients_of(method, options)
    assert kernel.supports(method, task)
    sums, right = kernel.run(method, [task], c, False), eager.run(method, [other], c, False)
    assert sums[-1] == right[-1] > (0 if key in SQUARES_NOTHING else 1)
    assert torch.allclose(sums, right, rtol=1e-5)
    for t, expected in zip((task.x, *task.buf.values()), (other.x, *other.buf.values()), strict=True):
        assert bool(t.isfinite().all())
        assert torch.allclose(t.double(), expected.double(), rtol=1e-2 if t.dtype != torch.float32 else 1e-4, atol=1e-5)


@pytest.mark.skipif(not cpu_c.available(), reason="no C compiler")
def test_sliced_statistics_overflow_alike() -> None:
    method, options, cut = METHODS["prodigy"](), options_of("prodigy", slice_p=3), slice(1, None, 3)
    task = task_of("prodigy", 5000, options=options, cut=cut)
    task.g[:90:10] = torch.tensor(HUGE)
    task.buf["s"][0] = 3e38
    other, c = copied(task), coefficients_of(method, options)
    assert cpu_c.supports(method, task)
    assert cpu_c.run(method, [task], c, False)[-1] == eager.run(method, [other], c, False)[-1]
    assert torch.allclose(task.x, other.x, rtol=1e-4)
    task.g[4::3], c = 1e15, c | {"to_s": torch.tensor(1e25, dtype=torch.float64)}  # of the squares none overflows
    other = copied(task)
    found, right = cpu_c.run(method, [task], c, False), eager.run(method, [other], c, False)
    assert found[-1] == right[-1] > 1000
    assert all(torch.allclose(t, other.buf[name], rtol=1e-4) for name, t in task.buf.items())


@pytest.mark.skipif(not cpu_c.has_half(), reason="the C step has no float16 here")
def test_the_point_towards_which_a_weight_goes_has_to_fit_too() -> None:
    """With lr = 0.25 a weight in float16 takes a quarter of the way to 1e5, which float16 does not hold."""
    method, options = METHODS["cocob"](), options_of("cocob", lr=0.25)
    task, c = task_of("cocob", 100, options=options, param=torch.float16), coefficients_of(method, options)
    task.buf["reward"][:10], task.buf["coins"][:10], task.buf["largest"][:10] = 1e4, 1430.0, 1.0
    task.g[:] = 0.5
    other = copied(task)
    found, right = cpu_c.run(method, [task], c, False), eager.run(method, [other], c, False)
    assert found[-1] == right[-1] == 10
    assert torch.equal(task.x, other.x)


def test_a_sparse_gradient_that_overflows_leaves_its_row_finite() -> None:
    w = torch.nn.Parameter(torch.ones(4, 2))
    optimizer = ALL["dadapt_adagrad"]([w], d0=1e-2)
    for value in (1.0, 1e38, 1.0):
        w.grad = torch.sparse_coo_tensor(
            torch.tensor([[0, 2]]), torch.full((2, 2), value), (4, 2), check_invariants=True
        )
        optimizer.step()
        assert all(bool(t.isfinite().all()) for t in (w, *everything(optimizer)))
    assert optimizer.step_size.held_steps == 1


def test_the_log_and_the_error_say_what_happened(library_log: pytest.LogCaptureFixture) -> None:
    _, optimizer = run("prodigy", "auto", {4: 1e38})
    assert optimizer.step_size.held_steps == 1
    assert "not finite, or so large that the step would overflow" in library_log.text
    with pytest.raises(
        ArithmeticError, match="1 gradient elements are not finite, or so large that they would overflow"
    ):
        run("prodigy", "auto", {4: 1e38}, nonfinite="raise")


@pytest.mark.slow
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("key", ["prodigy", "dadapt_lion", "cocob"])
@pytest.mark.parametrize("size", [1.0, 1e18])
def test_weights_that_run_away_stay_finite(key: str, size: float, backend: str) -> None:
    """A gradient that never turns lets d grow until the decay alone, a coefficient or COCOB's wealth is beyond float32."""
    p = torch.nn.Parameter(torch.ones(3))
    first = first_d(key, 1e10 if key == "dadapt_lion" else 1.0)
    optimizer = ALL[key]([p], **first, weight_decay=0.0 if key == "cocob" else 0.1, backend=backend)
    for _ in range(200 if key == "cocob" else 80):
        p.grad = torch.full((3,), size)
        optimizer.step()
        assert all(bool(t.isfinite().all()) for t in (p, *everything(optimizer)))
    assert optimizer.step_size.held_steps > 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_bet_that_is_won_again_and_again_is_left_out_when_the_weights_cannot_hold_it(dtype: torch.dtype) -> None:
    """Of a small gradient: COCOB's wealth doubles with every step."""
    p = torch.nn.Parameter(torch.ones(3, dtype=dtype))
    optimizer = ALL["cocob"]([p])
    for _ in range(200):
        p.grad = torch.tensor([1.0, -1.0, 0.0], dtype=dtype)
        optimizer.step()
        assert all(bool(t.isfinite().all()) for t in (p, *everything(optimizer)))
    assert optimizer.step_size.held_steps > 0
    assert float(p.detach().abs().max()) > torch.finfo(dtype).max / 4
    assert p[2] == 1


def test_bets_of_the_largest_gradients_are_those_of_small_ones() -> None:
    """Only ratios of gradients count; alpha times the largest one need not be finite."""
    small, large = (torch.nn.Parameter(torch.zeros(2, dtype=torch.float32)) for _ in range(2))
    optimizers = [ALL["cocob"]([p], eps=eps) for p, eps in ((small, 2.0**-20), (large, 2.0**104))]
    for sign in (1.0, 1.0, -1.0, 1.0):
        small.grad = torch.tensor([sign, -0.5])
        large.grad = small.grad * 2.0**124
        for optimizer in optimizers:
            optimizer.step()
    assert torch.equal(small, large)
    assert small.detach().abs().min() > 0
    assert optimizers[1].step_size.held_steps == 0
