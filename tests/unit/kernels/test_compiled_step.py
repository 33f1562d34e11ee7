"""Compare the compiled step with the plain loop for every method, dtype, size and place in memory."""

from typing import Any

import pytest
import torch

import dadapt_dist as dd
from dadapt_dist.kernels import cpu_c
from dadapt_dist.methods import METHODS
from tests.helpers.classes import COMPILED
from tests.helpers.kernel_cases import check, coefficients_of, copied, options_of, task_of

F32, BF16, F16 = torch.float32, torch.bfloat16, torch.float16
DTYPES = [(F32, F32, F32), (F32, BF16, F32), (BF16, BF16, F32), (BF16, F32, BF16), (F32, F32, BF16), (F16, F16, F32)]
pytestmark = pytest.mark.skipif(not cpu_c.available(), reason="no C compiler: the plain loop runs instead")


def step(key: str, shapes: Any, options: dict[str, Any] | None = None, **fields: Any) -> torch.Tensor:
    """Check one step over tensors of these shapes, each with a weight of its own."""
    options = options or options_of(key)
    method = METHODS[key]()
    tasks = [
        task_of(key, shape, options=options, seed=index, weight=1 / (1 + index), origin=100 * index, **fields)
        for index, shape in enumerate(shapes)
    ]
    return check(method, tasks, coefficients_of(method, options), cpu_c)


@pytest.mark.parametrize("dtypes", DTYPES, ids=str)
@pytest.mark.parametrize("key", COMPILED)
def test_a_step_is_that_of_the_plain_loop_in_any_dtype_and_size(key: str, dtypes: tuple[torch.dtype, ...]) -> None:
    if F16 in dtypes and not cpu_c.has_half():
        pytest.skip("this compiler has no float16")
    param, gradient, statistics = dtypes
    sizes = [1, 3, 1023, 1025, 16385, (33, 65), 0, (2, 3, 5)]
    step(key, sizes, param=param, gradient=gradient, statistics=statistics)


@pytest.mark.parametrize(
    "fields",
    [
        {"decay": 0.1},
        {"maximize": True},
        {"scale": torch.tensor(4.0)},
        {"decay": 0.1, "maximize": True, "scale": torch.tensor(8.0)},
    ],
    ids=str,
)
@pytest.mark.parametrize("key", ["prodigy", "dadapt_sgd"])
def test_what_is_done_to_a_gradient_first(key: str, fields: dict[str, Any]) -> None:
    step(key, [2000, 5], **fields)
    step(key, [2000, 5], gradient=BF16, param=BF16, **fields)


@pytest.mark.parametrize("key", COMPILED)
@pytest.mark.parametrize("gradient", [F32, BF16])
def test_elements_that_are_not_finite_are_counted_and_taken_as_zero(key: str, gradient: torch.dtype) -> None:
    options, method = options_of(key), METHODS[key]()
    task = task_of(key, 5000, gradient=gradient)
    task.g[::7], task.g[3], task.g[4999] = float("nan"), float("inf"), float("-inf")
    task.x[5] = 2.0
    bad = int((~task.g.isfinite()).sum())
    assert check(method, [task], coefficients_of(method, options), cpu_c)[-1] == bad
    assert task.x.isfinite().all()
    assert all(t.isfinite().all() for name, t in task.buf.items())


@pytest.mark.parametrize("key", COMPILED)
def test_denormal_numbers_are_numbers(key: str) -> None:
    method = METHODS[key]()
    task = task_of(key, 3000)
    for t in (
        task.g,
        *(t for name, t in task.buf.items() if name != "largest"),
    ):  # by which COCOB divides: few bits are left
        t[::2] *= 1e-38
    task.g[::3] = 1e-42
    check(method, [task], coefficients_of(method, options_of(key)), cpu_c)


def test_tensors_that_lie_at_odd_addresses_or_in_another_order() -> None:
    method, options = METHODS["prodigy"](), options_of("prodigy")
    c = coefficients_of(method, options)
    odd = task_of("prodigy", 4003)
    odd.x = torch.randn(4004)[1:]
    odd.g = torch.randn(4006)[3:]
    odd.buf["s"] = torch.randn(4005)[2:]
    check(method, [odd], c, cpu_c)
    task = task_of("prodigy", (4, 3, 5, 7))
    for t in ("x", "g"):
        setattr(task, t, getattr(task, t).to(memory_format=torch.channels_last))
    task.buf = {name: t.to(memory_format=torch.channels_last) for name, t in task.buf.items()}
    check(method, [task], c, cpu_c)


def test_what_it_cannot_take_goes_to_the_plain_loop() -> None:
    method = METHODS["prodigy"]()
    gaps = task_of("prodigy", (40, 30))
    gaps.x = torch.randn(40, 60)[:, ::2]
    mixed = task_of("prodigy", (4, 3, 5, 7))
    mixed.g = mixed.g.to(memory_format=torch.channels_last)
    double = task_of("prodigy", 10)
    double.buf["s"] = double.buf["s"].double()
    assert not any(cpu_c.supports(method, task) for task in (gaps, mixed, double))
    p = torch.nn.Parameter(torch.randn(40, 60)[:, ::2])
    optimizer = dd.Prodigy([p], backend="c")
    for _ in range(3):
        p.grad = torch.ones_like(p)
        optimizer.step()
    assert optimizer.d > 1e-6


@pytest.mark.parametrize("param", [F32, BF16])
@pytest.mark.parametrize("cut", [slice(0, None, 7), slice(4, None, 7), slice(10, None, 11)], ids=str)
def test_sliced_statistics(cut: slice, param: torch.dtype) -> None:
    step("prodigy", [40_000, 12, (30, 41)], param=param, cut=cut)
    step("prodigy", [40_000, 12], param=param, cut=cut, statistics=BF16)


def test_prodigy_without_momentum_and_any_method_without_statistics() -> None:
    step("prodigy", [2000], options_of("prodigy", betas=(0.0, 0.99)))
    for key in COMPILED:
        method, options = METHODS[key](), options_of(key)
        task = task_of(key, 2000)
        frozen = [name for name, buffer in method.buffers(options).items() if buffer.statistic]
        for name in frozen:
            del task.buf[name]
        plain = copied(task)
        c = coefficients_of(method, options)
        assert cpu_c.supports(method, task)
        cpu_c.run(method, [task], c, False)
        dd.kernels.eager.run(method, [plain], c, False)
        assert torch.allclose(task.x, plain.x, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("key", COMPILED)
def test_the_bits_do_not_depend_on_the_number_of_threads(key: str) -> None:
    method, options = METHODS[key](), options_of(key)
    found, threads = [], torch.get_num_threads()
    try:
        for number in (1, 2, 3, 16):
            torch.set_num_threads(number)
            tasks = [task_of(key, size, seed=size) for size in (300_000, 70_001, 5)]
            assert all(cpu_c.supports(method, task) for task in tasks)
            sums = cpu_c.run(method, tasks, coefficients_of(method, options), False)
            found.append([sums, *(t for task in tasks for t in (task.x, *task.buf.values()))])
    finally:
        torch.set_num_threads(threads)
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other, strict=True))


def test_a_parameter_whose_memory_is_swapped_is_followed() -> None:
    p = torch.nn.Parameter(torch.zeros(100))
    optimizer = dd.Prodigy([p], d0=1e-2)
    for _ in range(4):
        p.grad = torch.ones(100)
        optimizer.step()
        old, p.data = p.data, p.data.clone()
        kept = old.clone()
        p.grad = torch.ones(100)
        optimizer.step()
        assert torch.equal(old, kept), "the step wrote to memory that is no longer the parameter's"
        assert not torch.equal(p.data, kept)


def test_a_step_tells_autograd_that_the_parameter_has_changed() -> None:
    p = torch.nn.Parameter(torch.ones(3))
    loss = (p * p).sum()
    optimizer = dd.Prodigy([p], backend="c")
    p.grad = torch.ones(3)
    optimizer.step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_gradients_are_not_held_after_the_step() -> None:
    import weakref

    p = torch.nn.Parameter(torch.ones(3))
    optimizer = dd.Prodigy([p])
    for _ in range(3):
        p.grad = torch.ones(3)
        gradient = weakref.ref(p.grad)
        optimizer.step()
        optimizer.zero_grad()
        assert gradient() is None
