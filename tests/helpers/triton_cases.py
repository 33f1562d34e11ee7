"""Compare the GPU's step with the plain loop, in triton's interpreter (test_triton) and on a GPU (test_gpu)."""

from typing import Any

import pytest
import torch

from dadapt_dist.kernels import PerTensor, eager, triton_launch
from dadapt_dist.methods import METHODS
from dadapt_dist.methods.by_power import DECAY, by_power
from dadapt_dist.methods.prodigy import ProdigyMethod
from tests.helpers.classes import ALWAYS_BEFORE, COMPILED

from .backends import quietly
from .kernel_cases import N_TENSORS, check, check_apart, coefficients_of, copied, on, options_of, task_of

F32, BF16, F16 = torch.float32, torch.bfloat16, torch.float16
DTYPES = [(F32, F32, F32), (BF16, BF16, F32), (F32, BF16, BF16), (F16, F16, F32)]
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
FIRST: list[dict[str, Any]] = [
    {"decay": 0.1, "maximize": True, "scale": torch.tensor(8.0)},
    {"decay": 0.1},
    {"scale": torch.tensor(4.0)},
]


@pytest.fixture(autouse=True)
def _small_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several programs a tensor, though the interpreter takes only small ones in reasonable time."""
    monkeypatch.setattr(triton_launch, "BLOCK", 256)
    monkeypatch.setattr(triton_launch, "BLOCKS", 2)


def _summed(sums: torch.Tensor | None) -> torch.Tensor:
    assert sums is not None, "there is no kernel"
    return sums


def step(key: str, shapes: Any, options: dict[str, Any] | None = None, **fields: Any) -> torch.Tensor:
    """Check one step over tensors of these shapes, each with a weight of its own."""
    options = options or options_of(key)
    tasks = [
        on(
            task_of(key, shape, options=options, seed=index, weight=1 / (1 + index), origin=100 * index, **fields),
            DEVICE,
        )
        for index, shape in enumerate(shapes)
    ]
    method = METHODS[key]()
    return check(method, tasks, coefficients_of(method, options, DEVICE), triton_launch)


# The interpreter takes seconds a case: there, dtypes that no method treats in a way of its own are tried with one of them.
CASES = [
    (key, dtypes)
    for key in COMPILED
    for dtypes in DTYPES
    if DEVICE == "cuda" or key == "prodigy" or dtypes == DTYPES[2]
]


@quietly
@pytest.mark.parametrize(("key", "dtypes"), CASES, ids=str)
def test_a_step_is_that_of_the_plain_loop_in_any_dtype_and_size(key: str, dtypes: tuple[torch.dtype, ...]) -> None:
    param, gradient, statistics = dtypes
    step(key, [1, 513, 1023, (33, 31), 0], param=param, gradient=gradient, statistics=statistics)


@pytest.mark.parametrize("fields", FIRST, ids=str)
def test_what_is_done_to_a_gradient_first(fields: dict[str, Any]) -> None:
    step("prodigy", [2000, 5], **fields)


def test_a_step_that_is_skipped_writes_nothing() -> None:
    method, task = METHODS["prodigy"](), on(task_of("prodigy", 2000), DEVICE)
    plain, c = copied(task), coefficients_of(METHODS["prodigy"](), options_of("prodigy"), DEVICE)
    assert triton_launch.supports(method, task)
    assert not _summed(triton_launch.run(method, [task], c, False, torch.tensor(True, device=DEVICE))).any()
    assert all(torch.equal(t, plain.buf[name]) for name, t in task.buf.items())
    assert torch.equal(task.x, plain.x)
    assert _summed(triton_launch.run(method, [task], c, False, torch.tensor(False, device=DEVICE))).any()
    assert not torch.equal(task.x, plain.x)


@quietly
@pytest.mark.parametrize("key", COMPILED)
def test_elements_that_are_not_finite_are_counted_and_taken_as_zero(key: str) -> None:
    options, method = options_of(key), METHODS[key]()
    task = task_of(key, 2000)
    task.g[::7], task.g[3], task.g[1999] = float("nan"), float("inf"), float("-inf")
    bad = int((~task.g.isfinite()).sum())
    task = on(task, DEVICE)
    assert check(method, [task], coefficients_of(method, options, DEVICE), triton_launch)[-1] == bad
    assert all(t.isfinite().all() for t in (task.x, *task.buf.values()))


def test_tensors_that_lie_at_odd_addresses_or_in_another_order() -> None:
    method, options = METHODS["prodigy"](), options_of("prodigy")
    c = coefficients_of(method, options, DEVICE)
    odd, even = on(task_of("prodigy", 2003), DEVICE), on(task_of("prodigy", 2003, seed=1), DEVICE)
    odd.g = torch.randn(2006, device=DEVICE)[3:]
    odd.buf["s"] = torch.randn(2005, device=DEVICE)[2:]
    check(method, [even, odd], c, triton_launch)
    task = on(task_of("prodigy", (4, 3, 5, 7)), DEVICE)
    task.x, task.g = (t.to(memory_format=torch.channels_last) for t in (task.x, task.g))
    task.buf = {name: t.to(memory_format=torch.channels_last) for name, t in task.buf.items()}
    check(method, [task], c, triton_launch)


def test_it_leaves_to_the_plain_loop_what_it_cannot_take() -> None:
    method = METHODS["prodigy"]()
    gaps = on(task_of("prodigy", (40, 30)), DEVICE)
    gaps.x = torch.randn(40, 60, device=DEVICE)[:, ::2]
    sliced = on(task_of("prodigy", 40, cut=slice(0, None, 3)), DEVICE)
    double = on(task_of("prodigy", 10), DEVICE)
    double.x = double.x.double()
    assert not any(triton_launch.supports(method, task) for task in (gaps, sliced, double))


@quietly
def test_prodigy_without_momentum_and_any_method_without_statistics() -> None:
    step("prodigy", [500], options_of("prodigy", betas=(0.0, 0.99)))
    for key in COMPILED:
        method, options = METHODS[key](), options_of(key)
        task = on(task_of(key, 500), DEVICE)
        for name in [name for name, buffer in method.buffers(options).items() if buffer.statistic]:
            del task.buf[name]
        plain, c = copied(task), coefficients_of(method, options, DEVICE)
        assert triton_launch.supports(method, task)
        triton_launch.run(method, [task], c, False)
        eager.run(method, [plain], c, False)
        assert torch.allclose(task.x, plain.x, rtol=1e-6, atol=1e-7)


def test_tensors_of_several_dtypes_in_one_group() -> None:
    method, options = METHODS["dadapt_adam"](), options_of("dadapt_adam")
    tasks = [on(task_of("dadapt_adam", 300, param=dtype, seed=i), DEVICE) for i, dtype in enumerate((F32, BF16, F32))]
    check(method, tasks, coefficients_of(method, options, DEVICE), triton_launch)


def test_a_table_is_made_anew_when_a_gradient_has_moved_and_only_then() -> None:
    method, options = METHODS["prodigy"](), options_of("prodigy")
    c, task = coefficients_of(method, options, DEVICE), on(task_of("prodigy", 300), DEVICE)
    assert triton_launch.supports(method, task)
    tables = triton_launch.derive(method, [task])
    triton_launch.run(method, [task], c, False, None, tables)
    sent = tables[0].distances
    triton_launch.run(method, [task], c, False, None, tables)
    assert tables[0].distances is sent
    task.g = task.g.clone()
    other = copied(task)
    triton_launch.run(method, [task], c, False, None, tables)
    assert tables[0].distances is not sent
    triton_launch.run(method, [other], c, False)
    assert torch.equal(task.x, other.x)


@pytest.mark.parametrize("key", COMPILED)
@pytest.mark.parametrize("fields", [{}, {"decay": 0.1, "maximize": True}], ids=str)
@quietly
def test_gradients_that_overflow_are_those_of_the_plain_loop(key: str, fields: dict[str, Any]) -> None:
    method, options = METHODS[key](), options_of(key)
    task, c = task_of(key, 600, options=options, **fields), coefficients_of(method, options, DEVICE)
    task.g[:27:3] = torch.tensor([1e15, 1e18, 1e19, 1.9e19, -1e20, 1e25, 1e30, -1e38, 3e38])
    task.g[500] = float("nan")
    task = on(task, DEVICE)
    other = copied(task)
    assert triton_launch.supports(method, task)
    sums, right = _summed(triton_launch.run(method, [task], c, False)), eager.run(method, [other], c, False)
    assert sums[-1] == right[-1] >= 1
    assert torch.allclose(sums, right, rtol=1e-5)
    for t, expected in zip((task.x, *task.buf.values()), (other.x, *other.buf.values()), strict=True):
        assert bool(t.isfinite().all())
        assert torch.allclose(t, expected, rtol=1e-4, atol=1e-5)


# -------------------------------------------------------------------- each tensor of the model apart


@pytest.mark.parametrize("dtypes", DTYPES, ids=str)
def test_each_tensor_has_a_factor_and_returns_its_square(dtypes: tuple[torch.dtype, ...]) -> None:
    """Several in one flat tensor, of which one has no elements, some over several programs, and none of the numbers in order."""
    kinds: dict[str, Any] = dict(zip(("param", "gradient", "statistics"), dtypes, strict=True))
    method, c = METHODS["prodigy"](), coefficients_of(METHODS["prodigy"](), options_of("prodigy"), DEVICE)
    runs = ((4, 0, 700), (0, 700, 700), (8, 700, 730), (2, 730, 1500))
    flat = on(task_of("prodigy", 1500, runs=runs, weight=0.5, origin=7, **kinds), DEVICE)
    others = [
        on(task_of("prodigy", shape, seed=i, weight=1 / (1 + i), runs=((i, 0, shape),), **kinds), DEVICE)
        for i, shape in ((3, 1), (6, 1025), (5, 0))
    ]
    check_apart(method, [flat, *others], c, triton_launch)


def test_squares_of_gradients_that_are_changed_first_not_finite_or_skipped() -> None:
    method, c = METHODS["prodigy"](), coefficients_of(METHODS["prodigy"](), options_of("prodigy"), DEVICE)
    for fields in (*FIRST, {}):
        task = task_of("prodigy", 900, runs=((2, 0, 600), (7, 600, 900)), **fields)
        task.g[::7], task.g[3] = float("nan"), float("inf")
        check_apart(method, [on(task, DEVICE)], c, triton_launch)
    task = on(task_of("prodigy", 900, runs=((2, 0, 900),)), DEVICE)
    squares = torch.full((N_TENSORS,), 7.0, dtype=torch.float64, device=DEVICE)
    for skip in (True, False):
        apart = PerTensor(torch.ones_like(squares), squares)
        triton_launch.run(method, [task], c, False, torch.tensor(skip, device=DEVICE), apart=apart)
        assert int((squares != 7.0).sum()) == (not skip)


# -------------------------------------------------------------------- made of the method's own code


@quietly
@pytest.mark.parametrize("key", ["dual_averaging", "mechanic_sgd"])
def test_split_sums_are_those_of_float64(key: str) -> None:
    method, options = METHODS[key](), options_of(key)
    split, decay = by_power(method), method.coupled_decay(options)
    c = coefficients_of(method, options, DEVICE) | {DECAY: decay or None}
    tasks = [on(task_of(key, size, options=options, seed=size, decay=decay), DEVICE) for size in (1, 600)]
    found, right = _summed(triton_launch.measure(split, tasks, c)), eager.measure(split, tasks, c)
    assert torch.allclose(found, right, rtol=1e-11, atol=1e-13 * float(right.abs().max()))


@quietly
@pytest.mark.parametrize("key", ALWAYS_BEFORE)
def test_sums_before_the_step_are_those_of_float64(key: str) -> None:
    method, options = METHODS[key](), options_of(key)
    c = coefficients_of(method, options, DEVICE)
    for dtype, fields in ((F32, FIRST[0]), (BF16, {})):
        tasks = [
            task_of(key, size, options=options, param=dtype, gradient=dtype, seed=size, weight=1 / (1 + size), **fields)
            for size in (1, 600, 0)
        ]
        tasks[1].g[:4] = torch.tensor([float("nan"), float("inf"), 3e38, 1e18]).to(dtype)
        tasks = [on(task, DEVICE) for task in tasks]
        before = [t.clone() for task in tasks for t in (task.x, *task.buf.values())]
        found, right = triton_launch.measure(method, tasks, c), eager.measure(method, tasks, c)
        assert found is not None
        assert found[-1] == right[-1]
        assert torch.allclose(found, right, rtol=1e-12, atol=0)
        assert all(map(torch.equal, before, [t for task in tasks for t in (task.x, *task.buf.values())]))


@quietly
@pytest.mark.parametrize("key", ["prodigy", "dadapt_adagrad", "kt", "cocob"])
def test_a_way_that_only_the_device_knows_is_taken_there(key: str) -> None:
    """Both ways are in the kernel then, of which a number on the host has left one."""
    method, options = METHODS[key](), options_of(key)
    name = "back" if key == "prodigy" else "pull"
    for value in (0.0, 1.0) if key == "prodigy" else (0.25, 1.0):
        c = coefficients_of(method, options, DEVICE) | {name: value}
        one = on(task_of(key, 600, options=options), DEVICE)
        other = copied(one)
        sums = triton_launch.run(method, [one], c | {name: torch.tensor(value, device=DEVICE)}, False)
        assert torch.equal(_summed(sums), _summed(triton_launch.run(method, [other], c, False)))
        assert all(map(torch.equal, (one.x, *one.buf.values()), (other.x, *other.buf.values())))
        assert key != "prodigy" or torch.equal(one.x, one.buf["p0"]) is (value == 1.0)
        check(method, [one], c, triton_launch)


def test_a_class_derived_from_a_method_runs_by_its_own_code() -> None:
    class Still(ProdigyMethod):
        def update(self, x: Any, g: Any, buf: Any, c: Any, cut: Any) -> Any:
            before = x.clone()
            sums = super().update(x, g, buf, c, cut)
            x.copy_(before)
            return sums

    c = coefficients_of(METHODS["prodigy"](), options_of("prodigy"), DEVICE)
    task, other = (on(task_of("prodigy", 300), DEVICE) for _ in range(2))
    sums = triton_launch.run(Still(), [task], c, False)
    assert torch.equal(_summed(sums), _summed(triton_launch.run(METHODS["prodigy"](), [other], c, False)))
    assert torch.equal(task.x, on(task_of("prodigy", 300), DEVICE).x)
    assert torch.equal(task.buf["s"], other.buf["s"])


def test_what_no_kernel_can_be_made_of_moves_nothing() -> None:
    class Strange(ProdigyMethod):
        def update(self, x: Any, g: Any, buf: Any, c: Any, cut: Any) -> Any:
            return super().update(x.sin_(), g, buf, c, cut)

    method, task = METHODS["prodigy"](), on(task_of("prodigy", 300), DEVICE)
    before, c = task.x.clone(), coefficients_of(METHODS["prodigy"](), options_of("prodigy"), DEVICE)
    assert triton_launch.run(Strange(), [task], c, False) is None
    assert triton_launch.run(method, [task], c | {"b1": torch.ones(2, device=DEVICE)}, False) is None
    lion, options = METHODS["dadapt_lion"](), options_of("dadapt_lion")  # whose sums are multiplied by what is scaled
    factors = torch.ones(1, dtype=torch.float64, device=DEVICE)
    of_lion = on(task_of("dadapt_lion", 300, runs=((0, 0, 300),)), DEVICE)
    scaled = PerTensor(factors, factors.clone())
    assert triton_launch.run(lion, [of_lion], coefficients_of(lion, options, DEVICE), False, apart=scaled) is None
    assert torch.equal(task.x, before)
