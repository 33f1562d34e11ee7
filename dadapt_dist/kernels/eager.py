"""Run a step as plain torch operations, block by block, on tensors of any device and dtype."""

import functools
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Tensor

from ..methods.base import Buffers, Coefficients, Method
from .memory_checks import UnfitError, is_dense_alike
from .overflow_guard import bounded, kept_within, tamed
from .stochastic_rounding import store_stochastic
from .tensor_task import PerTensor, TensorTask

# Elements of a block. On the CPU a block of every tensor of a step and its temporaries fit a core's cache together;
# elsewhere a block only bounds the temporaries.
CPU_BLOCK = 1 << 18
BLOCK = 1 << 24

Number = Tensor | float  # 0-dim float64, or a float where the host may read


def derive(method: Method, tasks: Sequence[TensorTask]) -> None:
    """Nothing: plain operations take the tensors themselves."""


def run(
    method: Method,
    tasks: Sequence[TensorTask],
    c: Coefficients,
    dry: bool,
    skip: Tensor | None = None,
    derived: None = None,
    apart: PerTensor | None = None,
) -> Tensor:
    """Run one step over any tensors of one device: see `Kernel.run`."""
    device = tasks[0].x.device
    if skip is not None and readable(device):
        if bool(skip):
            return torch.zeros(len(method.sums) + 1, dtype=torch.float64, device=device)
        skip = None
    c = _bounded(numbers(c, device), tasks)
    rows = []
    if apart is None:
        for task in tasks:
            with _undone_where(skip, method, task):
                rows.append([number * task.weight for number in advance(method, task, c, dry)])
    else:
        rows = _run_apart(method, tasks, c, dry, skip, apart)
    if method.after is not None and len(rows[0]) > 1:  # a frozen method returns no sums
        method.after.check_terms(len(rows[0]) - 1, f"{type(method).__name__}.update")
    sums = torch.stack([torch.as_tensor(number, dtype=torch.float64, device=device) for number in _added_up(rows)])
    sums = torch.nn.functional.pad(sums, (len(method.sums) + 1 - len(sums), 0))
    return sums if skip is None else torch.where(skip.to(device), 0.0, sums)


def measure(
    method: Method, tasks: Sequence[TensorTask], c: Coefficients, derived: object = None, *, whole: bool = False
) -> Tensor:
    """The `before` sums of tensors of one device, which only are read: see `Kernel.measure`.

    In float64, so one block at a time for the temporaries. whole: all of a tensor at a time, for what is measured once.
    """
    rows = []
    c = numbers(c, tasks[0].x.device)
    for task in tasks:
        of_task = [_measured(method, block, c) for block in ([task] if whole else blocks(task))]
        rows.append((of_task[0] if len(of_task) == 1 else torch.stack(of_task).sum(0)) * task.weight)
    return functools.reduce(torch.add, rows)  # in the order of the tensors


def _measured(method: Method, task: TensorTask, c: Coefficients) -> Tensor:
    """The terms, and how many elements are not finite or have no finite square."""
    largest = math.sqrt(torch.finfo(task.math_dtype()).max)
    x, buf = task.x.to(torch.float64), {name: t.to(torch.float64) for name, t in task.buf.items()}
    g = task.g.to(torch.float64)
    g = g if task.scale is None else g / task.scale
    g = g.neg() if task.maximize else g
    g = g.add(x, alpha=task.decay)
    fit = g.abs() <= largest
    terms = method.measure_before(x, torch.where(fit, g, 0.0), buf, c)
    if method.before is not None:
        method.before.check_terms(len(terms), f"{type(method).__name__}.measure_before")
    return torch.stack([*terms, (~fit).sum(dtype=torch.float64)])


def _run_apart(
    method: Method, tasks: Sequence[TensorTask], c: Coefficients, dry: bool, skip: Tensor | None, apart: PerTensor
) -> list[list[Number]]:
    """The rows of `run`, with a coefficient of its own for each tensor of the model, whose squares are put where they belong."""
    rows, readily = [], readable(apart.factors.device)
    for task in tasks:
        for tensor, part in _of_tensors(task):
            factor = apart.factors[tensor]
            own = c | {method.scaled: c[method.scaled] * (float(factor) if readily else factor)}
            with _undone_where(skip, method, part):
                *row, square = (number * part.weight for number in advance(method, part, own, dry, squared=True))
            rows.append(row)
            apart.put_one(tensor, square, skip)
    return rows


def _of_tensors(task: TensorTask) -> Iterator[tuple[int, TensorTask]]:
    """The part of a task that belongs to each tensor of the model."""
    if len(task.runs) == 1:
        yield task.runs[0][0], task
        return
    x, g, flat = _flat(task.x), _flat(task.g), {name: _flat(t) for name, t in task.buf.items()}
    for tensor, start, stop in task.runs:
        yield tensor, _block(task, x, g, flat, slice(start, stop))


@contextmanager
def _undone_where(skip: Tensor | None, method: Method, task: TensorTask) -> Iterator[None]:
    """Put back what is written inside, where `skip` is true; nobody waits to know."""
    written = [task.x, *(t for name, t in task.buf.items() if name not in method.read_only)]
    before = [] if skip is None else [t.clone() for t in written]
    yield
    for t, was in zip(written, before, strict=False):
        assert skip is not None, "there is nothing to put back without it"
        t.copy_(torch.where(skip.to(t.device), was, t))


def rehearse(method: Method, task: TensorTask, c: Coefficients) -> None:
    """Raise UnfitError for tensors of a subclass with which a step cannot be carried out: it is tried on copies."""
    try:
        advance(method, task, numbers(c, task.x.device), dry=True)
    except Exception as error:
        kinds = ", ".join(sorted({type(t).__name__ for t in (task.x, task.g, *task.buf.values())}))
        said = f"a step over tensors of type {kinds} cannot be carried out ({error}). Freeze it, or train it as a plain tensor."
        raise UnfitError(task, said, TypeError) from error


def advance(
    method: Method, task: TensorTask, c: Coefficients, dry: bool = False, *, squared: bool = False
) -> list[Number]:
    """Advance the parameter and its buffers in place; return its partial sums and its count of non-finite elements.

    Elements whose gradient is not finite take part as if it were zero, so that they poison neither the buffers nor x.
    dry: compute the sums alone, from copies of a block at a time. squared: the sum of x², as x is then stored, comes last.
    """
    rows = []
    for block in blocks(task):
        block = _copied(block) if dry else block
        row = _advance(method, block, c)
        rows.append([*row, _square(block.x)] if squared else row)
    if readable(task.x.device):  # python adds numbers up faster than torch does
        rows = [[float(number) for number in row] for row in rows]
    return _added_up(rows)


def sum_of_squares(x: Tensor) -> Number:
    """Σ x² of a 1-dim tensor, to the bit as `advance` adds it up, and nearly to the bit as the other kernels do."""
    size = CPU_BLOCK if x.device.type == "cpu" else BLOCK
    rows: list[list[Number]] = [[_square(block)] for block in x.split(size)]
    return _added_up([[float(number) for number in row] for row in rows] if readable(x.device) else rows)[0]


def _square(x: Tensor) -> Tensor:
    """Σ x², 0-dim float64: the squares of what float32 and less hold are exact, and torch adds them up in pairs."""
    return x.to(torch.float64).square().sum()


def _added_up(rows: list[list[Number]]) -> list[Number]:
    """The sum of each column, in the order of the rows."""
    if len(rows) == 1:
        return rows[0]
    if isinstance(rows[0][0], Tensor):
        return list(torch.stack([torch.stack(row) for row in rows]).sum(0).unbind(0))  # type: ignore[arg-type]
    return [sum(column) for column in zip(*rows, strict=True)]


def _copied(task: TensorTask) -> TensorTask:
    return replace(task, x=task.x.clone(), buf={name: t.clone() for name, t in task.buf.items()})


def blocks(task: TensorTask) -> list[TensorTask]:
    """The task itself, or views of blocks of it where it is large and all its tensors lie in memory alike."""
    size = CPU_BLOCK if task.x.device.type == "cpu" else BLOCK
    numel = task.x.numel()
    if numel <= size or task.g.is_sparse:
        return [task]
    whole = [task.x, task.g, *(t for t in task.buf.values() if t.numel() == numel)]
    if not is_dense_alike(whole) or (task.cut is not None and not task.x.is_contiguous()):
        return [task]
    x, g, flat = _flat(task.x), _flat(task.g), {name: _flat(t) for name, t in task.buf.items()}
    return [_block(task, x, g, flat, slice(at, min(at + size, numel))) for at in range(0, numel, size)]


def _flat(t: Tensor) -> Tensor:
    return t.view(-1) if t.is_contiguous() else t.as_strided((t.numel(),), (1,))


def _block(task: TensorTask, x: Tensor, g: Tensor, buf: Buffers, run: slice) -> TensorTask:
    """The elements of `run`; of a sliced buffer those that belong to it."""
    cut, kept = task.cut, run
    if cut is not None:
        before, until = (max(0, -(-(at - cut.start) // cut.step)) for at in (run.start, run.stop))
        cut, kept = slice(cut.start + before * cut.step - run.start, None, cut.step), slice(before, until)
    parts = {name: t[run] if t.numel() == x.numel() else t[kept] for name, t in buf.items()}
    return replace(
        task,
        x=x[run],
        g=g[run],
        buf=parts,
        cut=cut,
        origin=task.origin + run.start,
        cut_origin=task.origin + kept.start,
    )


def _advance(method: Method, task: TensorTask, c: Coefficients) -> list[Number]:
    dtype = task.math_dtype()
    x = task.x if task.x.dtype == dtype else task.x.to(dtype)
    buf = {name: t if t.dtype == dtype else t.to(dtype) for name, t in task.buf.items()}
    before: list[Tensor] = []
    written = {"": x, **{name: t for name, t in buf.items() if name not in method.read_only}}
    if task.g.is_sparse:
        g, bad = _sparse_gradient(method, task, x, buf, c)
        sums = method.update_sparse(x, g, buf, c)
    else:
        g, bad = tamed(method, task, x, buf, c, readable(x.device))
        before = [t.clone() for t in written.values()] if isinstance(bad, Tensor) else []
        sums = method.update(x, g, buf, c, task.cut)
    for (name, t), was in zip(written.items(), before, strict=False):
        kept_within(t, was, torch.finfo((task.buf[name] if name else task.x).dtype).max)
    _write_back(method, task, x, buf, c)
    return [*sums, bad]


def _write_back(method: Method, task: TensorTask, x: Tensor, buf: Buffers, c: Coefficients) -> None:
    """Round what was computed in a wider dtype: the parameter to nearest, once; the buffers stochastically."""
    if x is not task.x:
        task.x.copy_(x)
    for name, t in task.buf.items():
        if buf[name] is not t and name not in method.read_only:
            sliced = t.numel() != x.numel()
            store_stochastic(t, buf[name], task.slice_origin if sliced else task.origin, c["seed"])


def _bounded(c: Coefficients, tasks: Sequence[TensorTask]) -> Coefficients:
    """Coefficients that the dtype of the mathematics holds."""
    largest = max(torch.finfo(task.math_dtype()).max for task in tasks)
    return {k: v if v is None or k == "seed" else bounded(v, largest) for k, v in c.items()}


def readable(device: torch.device) -> bool:
    """Whether the host may read values on this device without waiting for it."""
    return device.type == "cpu" and not torch.compiler.is_compiling()


def numbers(c: Coefficients, device: torch.device) -> Coefficients:
    """Coefficients as python numbers where that makes nobody wait; exact, since python numbers are float64 too."""
    if not readable(device):
        return c
    return {name: float(value) if isinstance(value, Tensor) else value for name, value in c.items()}


def _sparse_gradient(
    method: Method, task: TensorTask, x: Tensor, buf: Buffers, c: Coefficients
) -> tuple[Tensor, Number]:
    g = task.g.coalesce()
    rows = tuple(g.indices())
    part = replace(task, x=task.x[rows], g=g.values(), buf={name: t[rows] for name, t in task.buf.items()})
    values, bad = tamed(method, part, x[rows], {name: t[rows] for name, t in buf.items()}, c, readable(x.device))
    # The indices were checked when the gradient was made; torch warns unless told so.
    return torch.sparse_coo_tensor(g.indices(), values, g.shape, is_coalesced=True, check_invariants=False), bad
