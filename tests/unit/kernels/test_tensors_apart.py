"""Check steps with a factor for each tensor of the model, and the sums of squares that they return, in C and plain torch."""

import ctypes
from typing import Any

import pytest
import torch

from dadapt_dist.kernels import PerTensor, TensorTask, cpu_c, eager
from dadapt_dist.methods import METHODS
from tests.helpers.kernel_cases import N_TENSORS, check_apart, coefficients_of, copied, options_of, task_of

F32, BF16, F16 = torch.float32, torch.bfloat16, torch.float16
DTYPES = [(F32, F32, F32), (F32, BF16, F32), (BF16, BF16, F32), (BF16, F32, BF16), (F32, F32, BF16), (F16, F16, F32)]
HAS_C = cpu_c.available()
KERNELS = [eager, *([cpu_c] if HAS_C else [])]
c_only = pytest.mark.skipif(not HAS_C, reason="no C compiler: the plain loop runs instead")
METHOD = METHODS["prodigy"]()
FLAT = ((4, 0, 700), (0, 700, 700), (8, 700, 20_000), (2, 20_000, 40_001))
"""Four tensors of the model in one flat one, of which one has no elements here."""


def tasks_of(
    shapes: Any, options: dict[str, Any] | None = None, runs: Any = None, **fields: Any
) -> tuple[list[TensorTask], dict[str, Any]]:
    """Tensors with a weight and a number of their own, in no order, and the coefficients of their step."""
    options = options or options_of("prodigy")
    numbers = (3, 1, 6, 5, 7)
    tasks = [
        task_of(
            "prodigy",
            shape,
            options=options,
            seed=index,
            weight=1 / (1 + index),
            origin=100 * index,
            runs=runs or ((numbers[index], 0, torch.Size([shape] if isinstance(shape, int) else shape).numel()),),
            **fields,
        )
        for index, shape in enumerate(shapes)
    ]
    return tasks, coefficients_of(METHOD, options)


@pytest.mark.parametrize("dtypes", DTYPES, ids=str)
@pytest.mark.parametrize("kernel", KERNELS, ids=lambda k: k.__name__.split(".")[-1])
def test_a_step_is_that_of_each_tensor_by_itself(kernel: Any, dtypes: tuple[torch.dtype, ...]) -> None:
    if kernel is cpu_c and F16 in dtypes and not cpu_c.has_half():
        pytest.skip("this compiler has no float16")
    param, gradient, statistics = dtypes
    kinds = {"param": param, "gradient": gradient, "statistics": statistics}
    tasks, c = tasks_of([1, 16385, (33, 65), 0, (2, 3, 5)], **kinds)
    check_apart(METHOD, tasks, c, kernel)
    flat, c = tasks_of([40_001], runs=FLAT, **kinds)
    others, _ = tasks_of([5, 16385], **kinds)
    check_apart(METHOD, [*flat, others[1]], c, kernel)


@pytest.mark.parametrize(
    "fields", [{"decay": 0.1, "maximize": True, "scale": torch.tensor(8.0)}, {"cut": slice(4, None, 7)}], ids=str
)
@pytest.mark.parametrize("kernel", KERNELS, ids=lambda k: k.__name__.split(".")[-1])
def test_what_is_done_to_a_gradient_and_sliced_statistics(kernel: Any, fields: dict[str, Any]) -> None:
    for param in (F32, BF16):
        tasks, c = tasks_of([20_000, (30, 41)], param=param, **fields)
        check_apart(METHOD, tasks, c, kernel)


@pytest.mark.parametrize("kernel", KERNELS, ids=lambda k: k.__name__.split(".")[-1])
def test_without_momentum_without_statistics_and_in_another_order_of_memory(kernel: Any) -> None:
    check_apart(METHOD, *tasks_of([2000, 5], options_of("prodigy", betas=(0.0, 0.99))), kernel)
    tasks, c = tasks_of([2000, 5])
    for task in tasks:
        del task.buf["s"], task.buf["p0"]
    check_apart(METHOD, tasks, c, kernel, summed=False)
    tasks, c = tasks_of([(4, 3, 5, 7), (2, 3, 2, 2)])
    for task in tasks:
        task.x, task.g = (t.to(memory_format=torch.channels_last) for t in (task.x, task.g))
        task.buf = {name: t.to(memory_format=torch.channels_last) for name, t in task.buf.items()}
    check_apart(METHOD, tasks, c, kernel)


@pytest.mark.parametrize("kernel", KERNELS, ids=lambda k: k.__name__.split(".")[-1])
def test_elements_that_are_not_finite_leave_squares_that_are(kernel: Any) -> None:
    tasks, c = tasks_of([40_001], runs=FLAT)
    g = tasks[0].g
    g[::7], g[3], g[40_000] = float("nan"), float("inf"), float("-inf")
    assert check_apart(METHOD, tasks, c, kernel)[-1] == int((~g.isfinite()).sum())
    huge, c = tasks_of([3000])
    huge[0].g[::100] = 3e38
    squares = torch.zeros(N_TENSORS, dtype=torch.float64)
    kernel.run(METHOD, huge, c, False, apart=PerTensor(torch.ones_like(squares), squares))
    assert squares[3] == pytest.approx(float(huge[0].x.double().square().sum()), rel=1e-13)


@pytest.mark.parametrize("kernel", KERNELS, ids=lambda k: k.__name__.split(".")[-1])
def test_a_step_that_is_skipped_leaves_the_squares(kernel: Any) -> None:
    tasks, c = tasks_of([3000, 70])
    before, squares = [copied(task) for task in tasks], torch.full((N_TENSORS,), 7.0, dtype=torch.float64)
    kernel.run(METHOD, tasks, c, False, torch.tensor(True), apart=PerTensor(torch.ones_like(squares), squares))
    assert (squares == 7.0).all()
    assert all(torch.equal(task.x, same.x) for task, same in zip(tasks, before, strict=True))
    kernel.run(METHOD, tasks, c, False, torch.tensor(False), apart=PerTensor(torch.ones_like(squares), squares))
    assert (squares != 7.0).sum() == 2


def test_a_skip_that_nobody_reads_leaves_the_squares(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU, where the host does not know whether the step overflowed."""
    monkeypatch.setattr("dadapt_dist.kernels.eager.readable", lambda device: False)
    tasks, c = tasks_of([3000], runs=((4, 0, 700), (2, 700, 3000)))
    before, squares = copied(tasks[0]), torch.full((N_TENSORS,), 7.0, dtype=torch.float64)
    sums = eager.run(METHOD, tasks, c, False, torch.tensor(True), apart=PerTensor(torch.ones_like(squares), squares))
    assert (squares == 7.0).all()
    assert not sums.any()
    assert torch.equal(tasks[0].x, before.x)
    assert all(torch.equal(t, before.buf[name]) for name, t in tasks[0].buf.items())
    check_apart(METHOD, tasks, c, eager)


@c_only
def test_neither_sums_nor_squares_depend_on_the_number_of_threads() -> None:
    found, threads = [], torch.get_num_threads()
    try:
        for number in (1, 2, 3, 16):
            torch.set_num_threads(number)
            tasks, c = tasks_of([300_000, 70_001, 5])
            flat, _ = tasks_of([40_001], runs=FLAT)
            squares = torch.zeros(N_TENSORS, dtype=torch.float64)
            factors = torch.linspace(0.1, 1, N_TENSORS, dtype=torch.float64)
            sums = cpu_c.run(METHOD, [*tasks, *flat], c, False, apart=PerTensor(factors, squares))
            found.append([sums, squares, *(t for task in (*tasks, *flat) for t in (task.x, *task.buf.values()))])
    finally:
        torch.set_num_threads(threads)
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other, strict=True))


@c_only
def test_c_leaves_to_the_plain_loop_several_tensors_in_one_that_is_sliced_or_has_gaps() -> None:
    (sliced,), _ = tasks_of([40_001], runs=FLAT, cut=slice(0, None, 3))
    (turned,), _ = tasks_of([(4, 3, 5, 7)], runs=((0, 0, 100), (1, 100, 420)))
    turned.x, turned.g = (t.to(memory_format=torch.channels_last) for t in (turned.x, turned.g))
    turned.buf = {name: t.to(memory_format=torch.channels_last) for name, t in turned.buf.items()}
    assert not cpu_c.supports(METHOD, sliced)
    assert not cpu_c.supports(METHOD, turned)
    check_apart_sliced(sliced)


def check_apart_sliced(task: TensorTask) -> None:
    """The plain loop takes them: what a factor of 1 gives is the step without factors."""
    c = coefficients_of(METHOD, options_of("prodigy"))
    other, squares = copied(task), torch.zeros(N_TENSORS, dtype=torch.float64)
    sums = eager.run(METHOD, [task], c, False, apart=PerTensor(torch.ones_like(squares), squares))
    right = eager.run(METHOD, [other], c, False)
    assert torch.allclose(sums, right, rtol=1e-5)
    assert torch.equal(task.x, other.x)
    assert all(torch.equal(t, other.buf[name]) for name, t in task.buf.items())
    assert squares.sum() == pytest.approx(float(task.x.double().square().sum()), rel=1e-13)


@c_only
@pytest.mark.parametrize("scaled", [-1, 32, 2**31 - 1])
def test_c_refuses_a_coefficient_that_is_none(scaled: int, monkeypatch: pytest.MonkeyPatch) -> None:
    tasks, c = tasks_of([3000])
    before, squares = copied(tasks[0]), torch.full((N_TENSORS,), 7.0, dtype=torch.float64)
    made = cpu_c._job

    def with_nonsense(*given: Any) -> cpu_c.Job:
        job = made(*given)
        job.scaled = scaled
        return job

    monkeypatch.setattr(cpu_c, "_job", with_nonsense)
    with pytest.raises(ValueError, match="refused"):
        cpu_c.run(METHOD, tasks, c, False, apart=PerTensor(torch.ones_like(squares), squares))
    assert torch.equal(tasks[0].x, before.x)
    assert (squares == 7.0).all()


@c_only
def test_c_refuses_factors_without_squares_and_squares_without_factors() -> None:
    tasks, c = tasks_of([3000])
    before, [rows] = copied(tasks[0]), cpu_c.derive(METHOD, tasks)
    rows.point(tasks)
    loaded = cpu_c.cpu_c_library.find()
    [call] = cpu_c._calls(METHOD, [rows], c, bounded=True)
    job, out, numbers = (
        cpu_c._job(call, tasks[0], c, False, METHOD.scaled),
        (ctypes.c_double * cpu_c.SUMS)(),
        torch.ones(1),
    )
    numbers = numbers.double()
    for given in ((numbers.data_ptr(), None), (None, numbers.data_ptr())):
        places = rows.places.buffer_info()[0], rows.weights.buffer_info()[0]
        assert loaded.dadapt_step(1, *places, ctypes.addressof(job), ctypes.addressof(out), *given) == 2
    assert torch.equal(tasks[0].x, before.x)
