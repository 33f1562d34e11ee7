"""Cases in one process: options, dtypes, kernels, groups, shared estimates, overflows, scalers, closures, checkpoints."""

import copy
import io
import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn

import dadapt_dist as dd

from .trace import METHODS, Trace, hexed

Options = dict[str, Any]
Case = Callable[[Trace], None]
SHAPES = [(67, 131), (11,), (), (3, 1, 4), (5, 7), (0, 2)]
F16, BF16, F32, F64 = torch.float16, torch.bfloat16, torch.float32, torch.float64
STEPS = 8

OPTIONS: dict[str, dict[str, Options]] = {
    "prodigy": {
        "default": {},
        "betas": {"betas": (0.8, 0.95), "beta3": 0.9, "eps": 1e-6},
        "no momentum": {"betas": (0.0, 0.99)},
        "decay": {"weight_decay": 0.1},
        "coupled decay": {"weight_decay": 0.1, "decouple": False},
        "d_coef growth": {"d_coef": 2.0, "growth_rate": 1.1},
        "bias correction": {"use_bias_correction": True},
        "safeguard": {"safeguard_warmup": True, "weight_decay": 0.01},
        "slice 5": {"slice_p": 5},
        "slice 11 decay": {"slice_p": 11, "weight_decay": 0.1, "safeguard_warmup": True},
    },
    "dadapt_adam": {
        "default": {},
        "betas": {"betas": (0.8, 0.95), "eps": 1e-6, "growth_rate": 1.1},
        "decay": {"weight_decay": 0.1},
        "decoupled decay": {"weight_decay": 0.1, "decouple": True},
        "bias correction": {"use_bias_correction": True},
    },
    "dadapt_sgd": {
        "default": {},
        "momentum": {"momentum": 0.9},
        "decay growth": {"momentum": 0.5, "weight_decay": 0.1, "growth_rate": 1.1},
    },
    "dadapt_adagrad": {
        "default": {},
        "momentum": {"momentum": 0.9, "eps": 1e-4},
        "decay growth": {"momentum": 0.5, "weight_decay": 0.1, "growth_rate": 1.1},
    },
    "dadapt_adan": {
        "default": {},
        "betas": {"betas": (0.9, 0.8, 0.95), "eps": 1e-6, "weight_decay": 0.1, "growth_rate": 1.1},
        "no prox": {"no_prox": True, "weight_decay": 0.1},
    },
    "dadapt_lion": {
        "default": {},
        "betas": {"betas": (0.8, 0.95)},
        "decay": {"weight_decay": 0.1},
    },
}
# parameters, state_dtype, statistics_dtype
DTYPES: dict[str, tuple[torch.dtype, torch.dtype | None, torch.dtype | None]] = {
    "f32": (F32, None, None),
    "f64": (F64, None, None),
    "bf16": (BF16, None, None),
    "f16": (F16, None, None),
    "f32 statistics bf16": (F32, None, BF16),
    "bf16 state bf16": (BF16, BF16, BF16),
    "f32 state f64": (F32, F64, None),
}


def noise(seed: int, shape: Sequence[int]) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


class Problem:
    """Parameters that are drawn to a target by a noisy quadratic; only elementwise operations make the gradients."""

    def __init__(self, dtype: torch.dtype = F32, shapes: Sequence[tuple[int, ...]] = tuple(SHAPES)) -> None:
        self.params = [nn.Parameter(noise(i, shape).to(dtype)) for i, shape in enumerate(shapes)]
        self.targets = [p.detach() + noise(100 + i, p.shape).to(dtype) for i, p in enumerate(self.params)]

    def gradients(self, step: int) -> None:
        """Set the gradients of a step."""
        for i, (p, target) in enumerate(zip(self.params, self.targets, strict=True)):
            p.grad = (p.detach() - target) * (1 + i / 4) + 0.3 * noise(1000 * (step + 1) + i, p.shape).to(p.dtype)

    def loss(self, step: int) -> Tensor:
        """A loss with gradients of that kind, for backward()."""
        losses = []
        for i, (p, target) in enumerate(zip(self.params, self.targets, strict=True)):
            shift = target - 0.3 * noise(1000 * (step + 1) + i, p.shape).to(p.dtype)
            losses.append(((p - shift).float() ** 2).sum() * (0.5 + i / 8))
        return torch.stack(losses).sum()


def build(method: str, params: Any, **options: Any) -> Any:
    return METHODS[method](params, **{"d0": 1e-2, **options})


def train(
    trace: Trace, problem: Problem, *optimizers: Any, first: int = 0, steps: int = STEPS, end: bool = True
) -> None:
    for step in range(first, first + steps):
        problem.gradients(step)
        for optimizer in optimizers:
            optimizer.step()
        trace.step(problem.params, optimizers[0])
    if end:
        trace.end(problem.params, *optimizers)


def plain(trace: Trace, method: str, options: Options, dtypes: str, backend: str) -> None:
    dtype, state, statistics = DTYPES[dtypes]
    problem = Problem(dtype)
    kinds = {"state_dtype": state, "statistics_dtype": statistics, "backend": backend}
    train(trace, problem, build(method, problem.params, **options, **kinds))


def common(trace: Trace, method: str, options: Options, lrs: Sequence[float] = ()) -> None:
    """An option that every method takes; lrs: of the steps."""
    problem = Problem()
    optimizer = build(method, problem.params, **options)
    for step in range(STEPS):
        if lrs:
            optimizer.param_groups[0]["lr"] = lrs[step]
        problem.gradients(step)
        optimizer.step()
        trace.step(problem.params, optimizer)
    trace.end(problem.params, optimizer)


def groups(trace: Trace, method: str, estimates: bool, backend: str = "auto") -> None:
    """Groups with their own lr, decay and layer scale, with one estimate or two; one is added during the training."""
    problem = Problem()
    decay = {"weight_decay": 0.1}
    parts: list[Options] = [
        {"params": problem.params[:2], "lr": 0.5, "layer_scale": 2.0},
        {"params": problem.params[2:4], **decay},
        {"params": problem.params[4:5], "lr": 0.0},
    ]
    step_size = None
    if estimates:
        step_size = dd.StepSize(["a", "b"])
        for part, name in zip(parts, "aba", strict=True):
            part["estimate"] = name
    optimizer = build(method, parts, step_size=step_size, backend=backend)
    train(trace, problem, optimizer, steps=4, end=False)
    added: Options = {"params": problem.params[5:], "lr": 0.7} | ({"estimate": "b"} if estimates else {})
    optimizer.add_param_group(added)
    optimizer.param_groups[2]["lr"] = 0.3
    train(trace, problem, optimizer, first=4, steps=4)


def shared(trace: Trace, method: str, how: str) -> None:
    """Two optimizers with one d."""
    problem = Problem()
    step_size: Any = "replayed" + trace.name if how == "name" else dd.StepSize(sync="step")
    halves = [build(method, part, step_size=step_size) for part in (problem.params[:2], problem.params[2:])]
    for step in range(STEPS):
        problem.gradients(step)
        if how == "window":
            with step_size.window():
                halves[1].step()
                if step != 3:
                    halves[0].step()
        else:
            for half in halves:
                half.step()
        trace.step(problem.params, halves[0])
    trace.end(problem.params, *halves)


def absent(trace: Trace, method: str) -> None:
    """Parameters without gradients, a step without any, a first gradient of zeros, a parameter that is unfrozen."""
    problem = Problem()
    problem.params[1].requires_grad_(False)
    optimizer = build(method, problem.params)
    for step in range(STEPS):
        problem.gradients(step)
        if step == 5:
            problem.params[1].requires_grad_(True)
        for i, p in enumerate(problem.params):
            if step == 2 or (step == 4 and i % 2) or not p.requires_grad:
                p.grad = None
            elif step == 0:
                p.grad = torch.zeros_like(p)
        optimizer.step()
        trace.step(problem.params, optimizer)
    trace.end(problem.params, optimizer)


def overflow(trace: Trace, method: str, nonfinite: str | None, at: int, backend: str) -> None:
    """One infinite element, one NaN."""
    problem = Problem()
    optimizer = build(method, problem.params, nonfinite=nonfinite, backend=backend)
    for step in range(STEPS):
        problem.gradients(step)
        if step in (at, at + 2):
            problem.params[0].grad[3, 5] = math.inf if step == at else math.nan  # type: ignore[index]
        try:
            optimizer.step()
        except dd.NonFiniteError:
            trace.rest.setdefault("raised", []).append(step)
        trace.step(problem.params, optimizer)
    trace.end(problem.params, optimizer)


def scaled(trace: Trace, method: str, dtype: torch.dtype, unscale: bool, nonfinite: str | None = None) -> None:
    """A GradScaler, with one overflow, that unscales itself or leaves it to the optimizer."""
    problem = Problem(dtype)
    optimizer = build(method, problem.params, nonfinite=nonfinite)
    scaler = torch.amp.GradScaler("cpu", init_scale=64.0, growth_interval=3)
    for step in range(STEPS):
        optimizer.zero_grad()
        scaler.scale(problem.loss(step)).backward()
        if step == 3:
            problem.params[1].grad[2] = math.inf  # type: ignore[index]
        if unscale:
            scaler.unscale_(optimizer)
        scaler.step(optimizer)
        scaler.update()
        trace.step(problem.params, optimizer)
    trace.rest["scale"] = hexed(scaler.get_scale())
    trace.end(problem.params, optimizer)


def closed(trace: Trace, method: str) -> None:
    problem = Problem()
    optimizer = build(method, problem.params)
    for step in range(STEPS):

        def closure(step: int = step) -> Tensor:
            optimizer.zero_grad()
            loss = problem.loss(step)
            loss.backward()
            return loss

        trace.rest.setdefault("losses", []).append(hexed(optimizer.step(closure)))
        trace.step(problem.params, optimizer)
    trace.end(problem.params, optimizer)


def formats(trace: Trace, method: str, options: Options) -> None:
    """Parameters that are channels_last, transposed, a view with gaps; gradients in another order."""
    problem = Problem(shapes=[(4, 3, 5, 2), (6, 9), (40,)])
    with torch.no_grad():
        a, b, c = (p.detach().clone() for p in problem.params)
        laid = [a.to(memory_format=torch.channels_last), b.t().contiguous().t(), c.repeat_interleave(2)[::2]]
    problem.params = [nn.Parameter(t) for t in laid]
    optimizer = build(method, problem.params, **options)
    for step in range(STEPS):
        problem.gradients(step)
        for p in problem.params:
            p.grad = p.grad.contiguous() if step % 2 else torch.empty_like(p).copy_(p.grad)  # type: ignore[union-attr]
        optimizer.step()
        trace.step(problem.params, optimizer)
    trace.end(problem.params, optimizer)


def sparse(trace: Trace) -> None:
    torch.manual_seed(0)
    table = nn.Embedding(13, 5, sparse=True)
    dense = nn.Linear(5, 1)
    optimizer = dd.DAdaptAdaGrad([*table.parameters(), *dense.parameters()], d0=1e-2)
    params = [*table.parameters(), *dense.parameters()]
    for step in range(STEPS):
        optimizer.zero_grad()
        rows = torch.randint(13, (6,), generator=torch.Generator().manual_seed(step))
        (dense(table(rows)) - 1).square().sum().backward()
        optimizer.step()
        trace.step(params, optimizer)
    trace.end(params, optimizer)


def copied(trace: Trace, method: str) -> None:
    """A deep copy, and a pickled optimizer with its parameters, go on alone."""
    problem = Problem()
    optimizer = build(method, problem.params)
    train(trace, problem, optimizer, steps=4, end=False)
    twin, twins = copy.deepcopy((problem, optimizer))
    train(trace, twin, twins, first=4, steps=2, end=False)
    stream = io.BytesIO()
    torch.save((twin, twins), stream)
    stream.seek(0)
    third, thirds = torch.load(stream, weights_only=False)
    train(trace, third, thirds, first=6, steps=2)


def compiled(trace: Trace, method: str) -> None:
    """The step inside torch.compile, without a compiler behind it."""
    problem = Problem()
    optimizer = build(method, problem.params)
    step_of = torch.compile(optimizer.step, backend="eager")
    for step in range(4):
        problem.gradients(step)
        step_of()
        trace.step(problem.params, optimizer)
    trace.end(problem.params, optimizer)


CHECKPOINTS: dict[str, tuple[str, str, Options]] = {
    **{method: (method, "f32", {"weight_decay": 0.05}) for method in METHODS},
    **{f"{method} f64": (method, "f64", {}) for method in METHODS},
    "prodigy sliced": ("prodigy", "f32", {"slice_p": 5}),
    "prodigy frozen": ("prodigy", "f32", {"freeze_after": 3}),
    "prodigy no momentum": ("prodigy", "f32", {"betas": (0.0, 0.99), "use_bias_correction": True}),
    "dadapt_lion frozen": ("dadapt_lion", "f32", {"freeze_after": 3}),
    **{f"{method} {kind}": (method, kind, {}) for method in METHODS for kind in ("bf16 state bf16", "f32 state f64")},
    "prodigy statistics bf16": ("prodigy", "f32 statistics bf16", {}),
    "prodigy bf16": ("prodigy", "bf16", {}),
    "prodigy f16": ("prodigy", "f16", {}),
}


def _checkpointed(name: str) -> tuple[Problem, Any]:
    method, dtypes, options = CHECKPOINTS[name]
    dtype, state, statistics = DTYPES[dtypes]
    problem = Problem(dtype)
    two = [{"params": problem.params[:2], "lr": 0.7}, {"params": problem.params[2:]}]
    return problem, build(method, two, state_dtype=state, statistics_dtype=statistics, **options)


def save(trace: Trace, name: str) -> None:
    """Train, save after five steps, and go on."""
    problem, optimizer = _checkpointed(name)
    train(trace, problem, optimizer, steps=5, end=False)
    torch.save({"params": problem.params, "optimizer": optimizer.state_dict()}, trace.path(f"{name}.pt"))
    train(trace, problem, optimizer, first=5, steps=5)


def load(trace: Trace, name: str) -> None:
    """Load, and go on as the saved run did."""
    problem, optimizer = _checkpointed(name)
    saved = torch.load(trace.path(f"{name}.pt", load=True), weights_only=True)
    with torch.no_grad():
        for p, value in zip(problem.params, saved["params"], strict=True):
            p.copy_(value)
    optimizer.load_state_dict(saved["optimizer"])
    train(trace, problem, optimizer, first=5, steps=5)


def _of_options() -> Iterator[tuple[str, Case]]:
    for method, sets in OPTIONS.items():
        for name, options in sets.items():
            for dtypes in DTYPES:
                for backend in ("eager", "c"):
                    if dtypes in ("f32", "bf16") or name == "default" or backend == "c":
                        yield (
                            f"{method}/{name}/{dtypes}/{backend}",
                            partial(plain, method=method, options=options, dtypes=dtypes, backend=backend),
                        )


def _of_method(method: str) -> Iterator[tuple[str, Case]]:
    warm = [0.0, 0.1, 0.3, 1.0, 1.0, 0.0, 0.5, 0.2]
    few: dict[str, tuple[Options, Sequence[float]]] = {
        "maximize": ({"maximize": True}, ()),
        "layer_scale": ({"layer_scale": 0.3}, ()),
        "schedule": ({}, warm),
        "sync step": ({"sync": "step"}, ()),
        "freeze_after": ({"freeze_after": 3}, ()),
        "freeze_after schedule": ({"freeze_after": 3, "weight_decay": 0.1}, warm),
        "freeze_after skip": ({"freeze_after": 3, "nonfinite": "skip"}, ()),
        "freeze_after eager": ({"freeze_after": 3, "backend": "eager"}, ()),
    }
    if method == "prodigy":
        few |= {"safeguard schedule": ({"safeguard_warmup": True, "use_bias_correction": True}, warm)}
        few |= {"slice freeze": ({"slice_p": 5, "freeze_after": 3}, ())}
    for name, (options, lrs) in few.items():
        yield name, partial(common, method=method, options=options, lrs=lrs)
    for estimates in (False, True):
        for backend in ("auto", "eager"):
            yield (
                f"groups estimates={estimates} {backend}",
                partial(groups, method=method, estimates=estimates, backend=backend),
            )
    for how in ("object", "name", "window"):
        yield f"shared by {how}", partial(shared, method=method, how=how)
    yield "absent gradients", partial(absent, method=method)
    for nonfinite, at, backend in product((None, "hold", "skip", "raise"), (0, 3), ("auto", "eager")):
        yield (
            f"nonfinite {nonfinite} at {at} {backend}",
            partial(overflow, method=method, nonfinite=nonfinite, at=at, backend=backend),
        )
    for dtype, unscale in ((F32, False), (F32, True), (F16, False)):  # torch unscales no float16
        yield f"scaler {dtype} unscale={unscale}", partial(scaled, method=method, dtype=dtype, unscale=unscale)
    yield "scaler skip", partial(scaled, method=method, dtype=F32, unscale=False, nonfinite="skip")
    yield "closure", partial(closed, method=method)
    for backend in ("auto", "eager"):
        yield f"formats {backend}", partial(formats, method=method, options={"backend": backend})
    yield "copies", partial(copied, method=method)
    yield "torch.compile", partial(compiled, method=method)


def cases() -> Iterator[tuple[str, Case]]:
    yield from _of_options()
    for method in METHODS:
        yield from ((f"{method}/{name}", case) for name, case in _of_method(method))
    yield "dadapt_adagrad/sparse", sparse
    for name in CHECKPOINTS:
        yield f"save/{name}", partial(save, name=name)
        yield f"load/{name}", partial(load, name=name)


def triton_step(trace: Trace, method: str, options: Options, dtypes: str) -> None:
    dtype, state, statistics = DTYPES[dtypes]
    problem = Problem(dtype, [(6, 7), (11,), ()])
    kinds = {"state_dtype": state, "statistics_dtype": statistics, "backend": "triton"}
    train(trace, problem, build(method, problem.params, **options, **kinds), steps=3)


def triton_cases() -> Iterator[tuple[str, Case]]:
    """The GPU's step in triton's interpreter: a process of its own, with TRITON_INTERPRET=1."""
    for method, sets in OPTIONS.items():
        for name in [*sets][:2]:
            for dtypes in ("f32", "bf16 state bf16"):
                yield (
                    f"triton/{method}/{name}/{dtypes}",
                    partial(triton_step, method=method, options=sets[name], dtypes=dtypes),
                )
