"""Check that the compiled step is made of the code of any method, and that what it cannot be made of runs as plain operations."""

import logging
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from dadapt_dist.kernels import TensorTask, cpu_c, eager
from dadapt_dist.methods import METHODS, Buffer, Method
from dadapt_dist.methods.base import Buffers, Coefficients, Sums
from dadapt_dist.methods.ops import dot, root, total, total_abs
from tests.helpers.classes import ALWAYS_BEFORE, make
from tests.helpers.kernel_cases import check, coefficients_of, options_of, task_of
from tests.helpers.toy_methods import TOYS, toys_registered

F32, BF16, F16 = torch.float32, torch.bfloat16, torch.float16
DIRECTED = [name for name, method in TOYS.items() if not method.runs_base]
pytestmark = pytest.mark.skipif(not cpu_c.available(), reason="no C compiler: the plain loop runs instead")


def random_task(method: Method, buffers: dict[str, Buffer], size: int = 3000, **fields: Any) -> TensorTask:
    generator = torch.Generator().manual_seed(size)
    kind = fields.pop("param", F32)
    buf = {name: torch.randn(size, generator=generator) for name in buffers}
    buf |= {name: buf[name].square() for name, spec in buffers.items() if spec.squares}
    x, g = (torch.randn(size, generator=generator) for _ in range(2))
    return TensorTask(x=x.to(kind), g=g, buf=buf, **fields)


# ---------------------------------------------------------------- methods with a direction


@pytest.fixture(scope="module")
def classes() -> Iterator[dict[str, Callable[..., Any]]]:
    with toys_registered() as registered:
        yield registered


def directed(name: str, classes: dict[str, Callable[..., Any]], **other: Any) -> tuple[Method, Any, dict[str, Buffer]]:
    """A toy method, its coefficients in the middle of a run, and its buffers."""
    method = METHODS[name]()
    options = dict(classes[name]([torch.nn.Parameter(torch.zeros(1))], layer_scale=0.7, **other).defaults)
    return method, coefficients_of(method, options), method.buffers(options)


@pytest.mark.parametrize("name", DIRECTED)
@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_methods_over_sgd_adam_and_lion_are_compiled(name: str, decay: float, classes: Any) -> None:
    method, c, buffers = directed(name, classes, weight_decay=decay)
    for param in (F32, BF16):
        tasks = [random_task(method, buffers, size, param=param, weight=1 / size) for size in (5, 3000, 70_000)]
        check(method, tasks, c, cpu_c)


@pytest.mark.parametrize("name", DIRECTED)
def test_they_leave_out_what_the_plain_loop_leaves_out(name: str, classes: Any) -> None:
    method, c, buffers = directed(name, classes, weight_decay=0.1)
    task = random_task(method, buffers)
    task.g[:9] = torch.tensor([1e15, 1e18, 1e19, 1.9e19, -1e20, 1e30, 3e38, float("nan"), float("inf")])
    for t in task.buf.values():
        t[100] = 3e38
    other = replace(task, x=task.x.clone(), buf={key: t.clone() for key, t in task.buf.items()})
    sums, right = cpu_c.run(method, [task], c, False), eager.run(method, [other], c, False)
    assert sums is not None
    assert sums[-1] == right[-1] > 1
    for t, expected in zip((task.x, *task.buf.values()), (other.x, *other.buf.values()), strict=True):
        assert torch.allclose(t, expected, rtol=1e-4, atol=1e-5)


# ---------------------------------------------------------------- sums before the step


@pytest.mark.parametrize(
    "fields", [{}, {"decay": 0.1, "maximize": True, "scale": torch.tensor(8.0)}], ids=["", "decay"]
)
@pytest.mark.parametrize("dtypes", [(F32, F32), (BF16, BF16), (F32, F16)], ids=str)
@pytest.mark.parametrize("key", ALWAYS_BEFORE)
def test_sums_before_the_step_are_those_of_float64(key: str, dtypes: Any, fields: dict[str, Any]) -> None:
    if F16 in dtypes and not cpu_c.has_half():
        pytest.skip("this compiler has no float16")
    method, options = METHODS[key](), options_of(key)
    tasks = [
        task_of(
            key, size, options=options, param=dtypes[0], gradient=dtypes[1], seed=size, weight=1 / (1 + size), **fields
        )
        for size in (1, 2000, 70_001, 0)
    ]
    tasks[1].g[:4] = torch.tensor([float("nan"), float("inf"), 3e38, 1e18]).to(dtypes[1])
    c = coefficients_of(method, options)
    before = [t.clone() for task in tasks for t in (task.x, *task.buf.values())]
    found, right = cpu_c.measure(method, tasks, c), eager.measure(method, tasks, c)
    assert found is not None
    assert found[-1] == right[-1]
    assert torch.allclose(found, right, rtol=1e-12, atol=0)
    assert all(map(torch.equal, before, [t for task in tasks for t in (task.x, *task.buf.values())]))


def test_sums_before_the_step_do_not_depend_on_the_number_of_threads() -> None:
    method, options, threads = METHODS["dog"](), options_of("dog"), torch.get_num_threads()
    tasks, found = [task_of("dog", size, options=options) for size in (300_000, 70_001)], []
    try:
        for number in (1, 3, 16):
            torch.set_num_threads(number)
            found.append(cpu_c.measure(method, tasks, coefficients_of(method, options)))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(found[0], other) for other in found[1:])


@pytest.mark.parametrize("name", [name for name in DIRECTED if TOYS[name].before is not None])
def test_so_are_those_of_methods_with_a_direction(name: str, classes: Any) -> None:
    method, c, buffers = directed(name, classes)
    tasks = [random_task(method, buffers, size, decay=0.1) for size in (3000, 70_001)]
    found = cpu_c.measure(method, tasks, c)
    assert found is not None
    assert torch.allclose(found, eager.measure(method, tasks, c), rtol=1e-12, atol=0)


# ---------------------------------------------------------------- methods of a test's own


def of_update(update: Callable[..., Any], sums: tuple[str, ...] = (), **other: Any) -> Method:
    """COCOB's class with another update, so that one function is a method."""

    def as_method(_: Method, x: Tensor, g: Tensor, buf: Buffers, c: Coefficients, cut: Any) -> Any:
        return update(x, g, buf, c)

    phase = {"after": Sums(sums), "fold_after": lambda *_: {}} if sums else {}
    plain = {"squared": lambda *_: (), "multiplied": lambda *_: ()}
    return type("Own", (METHODS["cocob"],), {"update": as_method, **plain, **phase, **other})()


def every_operation(x: Tensor, g: Tensor, buf: Buffers, c: Coefficients) -> tuple[Tensor, ...]:
    """What methods may use, with NaN and 0 among the elements."""
    a, b, out = buf["a"], buf["b"], buf["out"]
    special = torch.where(a > 1, torch.full_like(a, float("nan")), a)
    found = torch.maximum(special, b) + torch.minimum(special, b) - special.clamp(-0.5, 0.5) * special.clamp(max=c["p"])
    found = torch.where(found.isnan(), 0.25, found)
    found += (a * 3).sign() + torch.sign(torch.zeros_like(a)) + a.square() * a.neg() + (a**2).rsqrt().clamp_max(3)
    found -= a.abs().sqrt().reciprocal().clamp_(max=2.0) / (1 + c["p"] ** 2)
    found.addcmul_(a, b, value=-1).addcmul_(a, b, value=c["p"]).addcdiv_(a, b.abs() + 1, value=1)
    found.addcdiv_(a, b.abs() + 1, value=-c["p"]).lerp_(b, c["p"]).lerp_(a, 0.75)
    found.mul_((a > 0) & ~(b >= 0) | (a == 0)).sub_(b, alpha=2).add_(1 / (2 - b.abs().clamp(max=1)))
    found = found * (a.isfinite()) + (c["p"] > 0.1) * torch.rsub(a, b) + (1 - c["p"]) * torch.sub(a, b, alpha=c["p"])
    out.copy_(found)
    x.copy_(a.detach().clone().view(-1).reshape(-1).contiguous())
    x *= 1 - c["p"]
    scaled = dot(a, b, root(b.abs(), c["p"])) * 2
    return total(g) * c["p"] + scaled / c["p"], total_abs(a) - 3 * total(a.double().mul(b)), torch.zeros_like(a.sum())


def test_every_operation_is_that_of_torch() -> None:
    method = of_update(every_operation, ("one", "two", "three"))
    task = random_task(method, dict.fromkeys(("a", "b", "out"), Buffer()), 70_000)
    task.buf["a"][:100], task.buf["b"][50:150] = 0.0, 0.0
    for p in (0.3, 0.8):
        check(method, [task], {"p": p, "seed": 3.0}, cpu_c)


def test_a_choice_by_a_coefficient_is_made_in_each_step() -> None:
    def update(x: Tensor, g: Tensor, buf: Buffers, c: Coefficients) -> tuple[Tensor, ...]:
        if c["p"] > 0.5 and not c["swap"]:
            x.sub_(g)
        elif c["p"] == 0:
            x.zero_()
        else:
            x.add_(g)
        return (total(x) * (2 if c["p"] < 0.2 else 3),)

    method = of_update(update, ("x",))
    for p, swap, expected in ((0.7, False, -1.0), (0.7, True, 1.0), (0.0, False, 0.0), (0.1, False, 1.0)):
        task = TensorTask(x=torch.zeros(5), g=torch.ones(5), buf={})
        sums = cpu_c.run(method, [task], {"p": p, "swap": swap, "seed": 0}, False)
        assert sums is not None
        assert torch.equal(task.x, torch.full((5,), expected))
        assert sums[0] == 5 * expected * (2 if p < 0.2 else 3)


def _by_elements(x: Tensor, g: Tensor, buf: Buffers, c: Coefficients) -> tuple[Tensor, ...]:
    if g[0] > 0:
        x.sub_(g)
    return ()


def _by_a_sum(x: Tensor, g: Tensor, buf: Buffers, c: Coefficients) -> tuple[Tensor, ...]:
    x.sub_(g / total(g).to(g.dtype))
    return ()


def _by_shape(x: Tensor, g: Tensor, buf: Buffers, c: Coefficients) -> tuple[Tensor, ...]:
    x.view(-1, 2).sub_(g.view(-1, 2))
    return ()


def _into_g(x: Tensor, g: Tensor, buf: Buffers, c: Coefficients) -> tuple[Tensor, ...]:
    x.sub_(g.mul_(2))
    return ()


def _unknown(x: Tensor, g: Tensor, buf: Buffers, c: Coefficients) -> tuple[Tensor, ...]:
    x.sub_(torch.special.erf(g))
    return ()


def _by_an_attribute(x: Tensor, g: Tensor, buf: Buffers, c: Coefficients) -> tuple[Tensor, ...]:
    x.sub_(g if x.is_complex() or x.is_quantized else g * 2)
    return ()


def _of_a_tensor_from_elsewhere(x: Tensor, g: Tensor, buf: Buffers, c: Coefficients) -> tuple[Tensor, ...]:
    x.sub_(g * torch.rand(()))
    return ()


def _of_what_is_not_there(x: Tensor, g: Tensor, buf: Buffers, c: Coefficients) -> tuple[Tensor, ...]:
    x.sub_(torch.empty_like(g).mul_(0))
    return ()


def _into_some_entries(x: Tensor, g: Tensor, buf: Buffers, c: Coefficients) -> tuple[Tensor, ...]:
    x[::2].sub_(g[::2])
    return ()


def _with_a_vector(x: Tensor, g: Tensor, buf: Buffers, c: Coefficients) -> tuple[Tensor, ...]:
    x.sub_(g * c["vector"].sum())
    return ()


def _beside_a_vector(x: Tensor, g: Tensor, buf: Buffers, c: Coefficients) -> tuple[Tensor, ...]:
    x.sub_(g if c["vector"] is None else g * 2)
    return ()


@pytest.mark.parametrize(
    "update",
    [
        _by_elements,
        _by_a_sum,
        _by_shape,
        _into_g,
        _unknown,
        _by_an_attribute,
        _of_a_tensor_from_elsewhere,
        _of_what_is_not_there,
        _into_some_entries,
        _with_a_vector,
        _beside_a_vector,
    ],
)
def test_what_no_kernel_can_be_made_of_runs_as_plain_operations(update: Any, caplog: pytest.LogCaptureFixture) -> None:
    method = of_update(update)
    task = TensorTask(x=torch.zeros(6), g=torch.ones(6), buf={})
    with caplog.at_level(logging.DEBUG, logger="dadapt_dist"):
        for _ in range(3):
            assert cpu_c.supports(method, task)
            assert cpu_c.run(method, [task], {"vector": torch.ones(2), "seed": 0}, False) is None
    assert not task.x.any()
    said = [record for record in caplog.records if "runs as plain operations" in record.getMessage()]
    assert [record.levelno for record in said] == [logging.DEBUG]


@pytest.mark.parametrize("kind", ["reads", "writes", "reads what was written", "of a sliced one"])
def test_entries_at_which_sliced_buffers_are_kept_can_be_read_and_no_more(kind: str) -> None:
    def update(_: Method, x: Tensor, g: Tensor, buf: Buffers, c: Coefficients, cut: Any) -> Any:
        if kind == "reads what was written":
            buf["m"].mul_(0.5)
        part = buf["s" if kind == "of a sliced one" else "m"][cut]
        buf["s"].add_(part * g[cut] + x[cut])
        if kind == "writes":
            part.add_(1)
        x.sub_(g)
        return (total(buf["s"] * part),)

    specs = {"m": Buffer(), "s": Buffer(sliced=True)}
    method = of_update(lambda *_: (), ("one",), buffers=lambda *_: specs)
    type(method).update = update  # type: ignore[method-assign]
    task = random_task(method, specs, 4001, cut=slice(2, None, 5))
    task.buf["s"] = task.buf["s"][task.cut].contiguous()
    if kind == "reads":
        check(method, [task], {"seed": 3.0}, cpu_c)
    else:
        assert cpu_c.run(method, [task], {"seed": 3.0}, False) is None


def test_an_optimizer_whose_method_cannot_be_compiled_steps_all_the_same() -> None:
    plain = METHODS["dog"].update

    def update(self: Any, x: Tensor, g: Tensor, buf: Buffers, c: Coefficients, cut: Any) -> Any:
        return () if bool((g == 0).all()) else plain(self, x, g, buf, c, cut)

    def measure(self: Any, x: Tensor, g: Tensor, buf: Buffers, c: Coefficients) -> Any:
        return (x - buf["x0"]).norm() ** 2, g.norm() ** 2

    found = []
    for own in ({}, {"update": update, "measure_before": measure}):
        p = torch.nn.Parameter(torch.ones(40))
        optimizer = make("dog", [p])
        optimizer._method = type("Other", (METHODS["dog"],), own)()
        for _ in range(5):
            p.grad = p.detach() * 2
            optimizer.step()
        found.append(p.detach())
    assert not torch.equal(found[0], torch.ones(40))
    assert torch.allclose(*found, rtol=1e-6)


def test_a_coefficient_may_become_a_number_in_the_middle_of_a_run() -> None:
    params = [torch.nn.Parameter(torch.ones(40)) for _ in range(2)]
    pair = [make("prodigy", [p], backend=backend) for p, backend in zip(params, ("c", "eager"), strict=True)]
    for step in range(6):
        for p, optimizer in zip(params, pair, strict=True):
            optimizer.param_groups[0]["weight_decay"] = 0.5 if 2 <= step < 4 else 0
            p.grad = p.detach() * 2
            optimizer.step()
    assert torch.allclose(*params, rtol=1e-6)
