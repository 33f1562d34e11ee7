"""Steps for the kernels' tests: one step from the middle of training, and its expected result in float64."""

import copy
from dataclasses import replace
from typing import Any

import torch

from dadapt_dist.kernels import PerTensor, TensorTask, eager
from dadapt_dist.methods import METHODS, Method

from .classes import ALL, parts

OPTIONS: dict[str, dict[str, Any]] = {
    "prodigy": {"weight_decay": 0.01, "decouple": True},
    "dadapt_adam": {"weight_decay": 0.01, "decouple": True},
    "dadapt_sgd": {"momentum": 0.5},
    "dadapt_adagrad": {"momentum": 0.25},
    "dadapt_adan": {"weight_decay": 0.02},
}
"""What the kernels of a method branch on; of the others, `parts`."""
SCALARS = {"d": 0.01, "d_max": 0.01, "numerator": 0.3, "k": 6.0, "g0_norm": 0.3, "gsq_weighted": 0.1}
SCALARS |= {"g_sq_sum": 0.2, "weighted_sum": 0.2, "share": 0.5, "model": 0.5, "weight": 1.0, "updates": 3.0}
"""Of the middle of training, for the methods that have them; the others are those after some steps of the method itself."""


def options_of(key: str, **other: Any) -> dict[str, Any]:
    """The options of a group, as the optimizer has them."""
    given = parts(key) | OPTIONS.get(key, {}) | {"layer_scale": 0.7} | other
    return dict(ALL[key]([torch.nn.Parameter(torch.zeros(1))], **given).defaults)


def coefficients_of(method: Method, options: dict[str, Any], device: str = "cpu") -> dict[str, Any]:
    """What a step multiplies by, and the number of the step."""
    scalars = {name: value.to(device) for name, value in scalars_of(method, options).items()}
    return method.coefficients(options, scalars, constants_of(method, options)) | {"seed": scalars["k"]}


def constants_of(method: Method, options: dict[str, Any]) -> dict[str, float]:
    """The constants, as the engine gives them."""
    return method.constants(options) | ({"lr": float(options["lr"])} if method.follows_lr else {})


def scalars_of(method: Method, options: dict[str, Any], steps: int = 3) -> dict[str, torch.Tensor]:
    """The scalars of an estimate in the middle of training: what the method's own folds make of some steps in float64.

    Where SCALARS has one it is that, so that steps are long enough to be seen.
    """
    generator = torch.Generator().manual_seed(7)
    x = torch.randn(60, generator=generator, dtype=torch.float64) * 0.1
    buf = {
        name: x.clone() if spec.init == "param" else torch.full_like(x, spec.init)
        for name, spec in method.buffers(options).items()
    }
    constants = constants_of(method, options)
    rows = {name: torch.tensor([value], dtype=torch.float64) for name, value in constants.items()}
    first = method.scalars(options) | {"k": 0.0} | ({"updates": 0.0} if method.counts_updates else {})
    values = {name: torch.tensor([value], dtype=torch.float64) for name, value in first.items()}

    def folded(phase: Any, fold: Any, terms: Any) -> None:
        if phase is None or not terms:
            return
        sums = {name: term.reshape(1) for name, term in zip(phase.names, terms, strict=True)}
        if phase.loss:
            sums["loss"] = torch.full((1,), 0.8, dtype=torch.float64)
        if phase.needs is None or sums[phase.needs] != 0:
            values.update(fold(sums, values, rows))

    if method.start is not None:
        folded(method.start, method.fold_start, method.measure_start(x))
    for step in range(steps):
        g = x - 0.3 + 0.1 * torch.randn(60, generator=generator, dtype=torch.float64)
        c = method.coefficients(options, _of_one(values), constants)
        wants = method.wants_before(values)
        if method.before is not None and (wants is None or bool(wants)):
            folded(method.before, method.fold_before, method.measure_before(x, g, buf, c))
            c = method.coefficients(options, _of_one(values), constants)
        folded(method.after, method.fold_after, method.update(x, g, buf, c, None))
        values.update(method.advance(values, rows))
        values["k"] = torch.full((1,), step + 1.0, dtype=torch.float64)
    known = _of_one(values)
    return known | {n: torch.tensor(v, dtype=torch.float64) for n, v in SCALARS.items() if n in known}


def _of_one(values: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: value[0] for name, value in values.items()}


def task_of(
    key: str,
    shape: int | tuple[int, ...],
    *,
    param: torch.dtype = torch.float32,
    gradient: torch.dtype = torch.float32,
    statistics: torch.dtype = torch.float32,
    state: torch.dtype = torch.float32,
    options: dict[str, Any] | None = None,
    seed: int = 0,
    **fields: Any,
) -> TensorTask:
    """A tensor in the middle of training: every buffer holds something, and no two alike. state: the dtype of other buffers."""
    generator = torch.Generator().manual_seed(seed)
    method, cut = METHODS[key](), fields.get("cut")

    def values(scale: float, dtype: torch.dtype, *, sliced: bool = False) -> torch.Tensor:
        t = torch.randn(shape, generator=generator) * scale
        return (t.reshape(-1)[cut].contiguous() if sliced and cut is not None else t).to(dtype)

    buf = {}
    for name, buffer in method.buffers(options or options_of(key)).items():
        small = buffer.statistic and buffer.init != "param"
        kind = statistics if small else torch.float32 if buffer.exchanged else state
        t = values(0.1, kind, sliced=buffer.sliced)
        buf[name] = t.square_().add_(1e-3) if buffer.squares else t
    return TensorTask(x=values(0.1, param), g=values(1.0, gradient), buf=buf, **fields)


def in_float64(task: TensorTask) -> TensorTask:
    """The same, exact, in float64."""
    scale = None if task.scale is None else task.scale.double()
    buf = {name: t.double() for name, t in task.buf.items()}
    return replace(task, x=task.x.double(), g=task.g.double(), buf=buf, scale=scale)


def on(task: TensorTask, device: str) -> TensorTask:
    """The same on another device."""
    scale = None if task.scale is None else task.scale.to(device)
    buf = {name: t.to(device) for name, t in task.buf.items()}
    return replace(task, x=task.x.to(device), g=task.g.to(device), buf=buf, scale=scale)


def copied(task: TensorTask) -> TensorTask:
    return replace(task, x=task.x.clone(), buf={n: t.clone() for n, t in task.buf.items()})


def rounded_at(x: torch.Tensor) -> float:
    """Half a unit in the last place of a value near 1, with room for the roundings of a few operations."""
    return {torch.float32: 2e-6, torch.bfloat16: 2**-8, torch.float16: 2**-10}[x.dtype]


def check(method: Method, tasks: list[TensorTask], c: dict[str, Any], kernel: Any) -> torch.Tensor:
    """Run the kernel, and compare all tensors and sums with one step of the plain loop in float64; return the sums."""
    truth = [in_float64(task) for task in tasks]
    plain = [copied(task) for task in tasks]
    assert all(kernel.supports(method, task) for task in tasks)
    before = copy.deepcopy(plain)
    dry = kernel.run(method, tasks, c, True)
    for task, same in zip(tasks, before, strict=True):
        assert torch.equal(task.x, same.x), "a dry run moved the parameter"
        assert all(torch.equal(task.buf[n], same.buf[n]) for n in task.buf), "a dry run moved a buffer"
    sums = kernel.run(method, tasks, c, False)
    assert torch.equal(dry, sums)
    expected = eager.run(method, truth, c, False)
    eager.run(method, plain, c, False)
    scale = sum(float(task.g.double().nan_to_num(0, 0, 0).abs().sum()) for task in tasks) + 1.0
    assert torch.allclose(sums.cpu(), expected.cpu(), rtol=1e-5, atol=1e-6 * scale), (sums, expected)
    assert sums[-1] == expected[-1]
    for task, right, loop in zip(tasks, truth, plain, strict=True):
        _compare("x", task.x, right.x)
        for name, t in task.buf.items():
            if t.dtype is torch.bfloat16:  # the noise is the same in every backend: nearly all are the same bits
                differ = (t != loop.buf[name]).double().mean() if t.numel() else 0.0
                assert differ < 1e-3, f"{name}: {differ} of the elements are rounded otherwise"
                _compare(name, t, right.buf[name])
            else:
                _compare(name, t, right.buf[name])
    return sums


def _compare(name: str, t: torch.Tensor, right: torch.Tensor) -> None:
    bound = rounded_at(t) * 2
    wrong = (t.double() - right).abs() - bound * right.abs() - (1e-6 if t.dtype is torch.float32 else bound * 0.01)
    assert not bool((wrong > 0).any()), f"{name} is off by {float(wrong.max()):.2e} beyond rounding"


# -------------------------------------------------------------------- each tensor of the model apart

N_TENSORS = 9
"""Of the model in the cases; the tasks have elements of some."""


def check_apart(
    method: Method, tasks: list[TensorTask], c: dict[str, Any], kernel: Any, *, summed: bool = True
) -> torch.Tensor:
    """Run the kernel with a factor for each tensor of the model; compare with one plain step a tensor in float64.

    Returns the sums. Each square has to be that of the x that memory holds afterwards. summed: False for tasks without
    statistics, of whose sums only the last counts.
    """
    device = tasks[0].x.device
    factors = torch.linspace(0.05, 1.0, N_TENSORS, dtype=torch.float64, device=device)
    squares = torch.full_like(factors, 7.0)
    assert all(kernel is eager or kernel.supports(method, task) for task in tasks)
    truth = [in_float64(copied(task)) for task in tasks]
    before = [copied(task) for task in tasks]
    dry_squares = squares.clone()
    dry = kernel.run(method, tasks, c, True, apart=PerTensor(factors, dry_squares))
    for task, same in zip(tasks, before, strict=True):
        assert torch.equal(task.x, same.x), "a dry run moved the parameter"
        assert all(torch.equal(task.buf[n], same.buf[n]) for n in task.buf), "a dry run moved a buffer"
    sums = kernel.run(method, tasks, c, False, apart=PerTensor(factors, squares))
    assert torch.equal(dry, sums)
    assert torch.equal(dry_squares, squares), "a dry run has other squares than the step"
    expected = torch.stack([_stepped_apart(method, task, c, factors) for task in truth]).sum(0)
    scale = sum(float(task.g.double().nan_to_num(0, 0, 0).abs().sum()) for task in tasks) + 1.0
    assert not summed or torch.allclose(sums.cpu(), expected.cpu(), rtol=1e-5, atol=1e-6 * scale), (sums, expected)
    assert sums[-1] == expected[-1]
    held = torch.full((N_TENSORS,), 7.0, dtype=torch.float64)
    for task, right in zip(tasks, truth, strict=True):
        _compare("x", task.x, right.x)
        for name, t in task.buf.items():
            _compare(name, t, right.buf[name])
        flat = _in_memory_order(task.x).double().cpu()
        for tensor, start, stop in task.runs:
            held[tensor] = float(flat[start:stop].square().sum()) * task.weight
    assert torch.allclose(squares.cpu(), held, rtol=1e-13, atol=0), (squares, held)
    return sums


def _in_memory_order(t: torch.Tensor) -> torch.Tensor:
    return t.detach().as_strided((t.numel(),), (1,))


def _stepped_apart(method: Method, task: TensorTask, c: dict[str, Any], factors: torch.Tensor) -> torch.Tensor:
    """One plain step of each run of a task by itself; the sums of all."""
    sums = torch.zeros(len(method.sums) + 1, dtype=torch.float64, device=task.x.device)
    for tensor, start, stop in task.runs:
        own = c | {method.scaled: c[method.scaled] * factors[tensor]}
        if len(task.runs) == 1:
            part = task
        else:
            views = {name: t[start:stop] for name, t in task.buf.items()}
            part = replace(task, x=task.x[start:stop], g=task.g[start:stop], buf=views)
        sums += eager.run(method, [replace(part, runs=())], own, False)
    return sums
