"""Run a step on the CPU, compiled: all tensors of a group in one call of cpu_c_step.c, each read and written once."""

import ctypes
from array import array
from collections.abc import Sequence

import torch
from torch import Tensor

from ..methods.base import Coefficients, KernelSignature, Method
from . import cpu_c_library
from .memory_checks import is_dense_alike, is_plain
from .tensor_task import PerTensor, TensorTask

KINDS = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}  # the codes of cpu_c_step.c
LARGEST = torch.finfo(torch.float32).max
SAFE, COEFFICIENT, WILD = 2.0**40, 2.0**20, 2.0**60
NONSENSE = 2  # cpu_c_step.c's word for rows that cannot be
BUFFERS, SUMS, COEFFICIENTS = 5, 4, 12  # the sizes of cpu_c_step.c's arrays
ROW, GRADIENT = 12, 2  # numbers of a row of cpu_c_step.c, and the place of the gradient's address among them


class Job(ctypes.Structure):
    """job_t of cpu_c_step.c."""

    _fields_ = (
        ("coefficient", ctypes.c_double * COEFFICIENTS),
        ("scale", ctypes.c_double),
        ("decay", ctypes.c_double),
        ("safe", ctypes.c_double),
        ("method", ctypes.c_int32),
        ("maximize", ctypes.c_int32),
        ("dry", ctypes.c_int32),
        ("threads", ctypes.c_int32),
        ("seed", ctypes.c_uint32),
        ("scaled", ctypes.c_int32),
    )


class Rows:
    """What cpu_c_step.c is told of tasks: rows of numbers, in which only the address of the gradient changes.

    A task has one row; with `runs`, one for each tensor of the model in it. tensors: int64 [n_rows], the numbers of these, or
    None. offsets: of each row the first element, and the place of its task.
    """

    def __init__(self, spec: KernelSignature, tasks: Sequence[TensorTask]) -> None:
        self.spec = spec
        runs = [task.runs or ((0, 0, task.x.numel()),) for task in tasks]
        self.count = sum(map(len, runs))
        self.numbers = array(
            "q",
            [
                number
                for task, of_task in zip(tasks, runs, strict=True)
                for _, start, stop in of_task
                for number in _row(spec, task, start, stop)
            ],
        )
        first = self.numbers.buffer_info()[0]
        size = ROW * self.numbers.itemsize
        self.places = array("q", range(first, first + self.count * size, size))
        self.weights = array("d", [task.weight for task, of_task in zip(tasks, runs, strict=True) for _ in of_task])
        self.params = [task.x for task in tasks]
        self.tensors = self.offsets = None
        if any(task.runs for task in tasks):
            self.tensors = torch.tensor([tensor for of_task in runs for tensor, _, _ in of_task], device="cpu")
        if self.count > len(tasks):
            self.offsets = [
                (index, start * task.g.itemsize)
                for index, (task, of_task) in enumerate(zip(tasks, runs, strict=True))
                for _, start, _ in of_task
            ]

    def point(self, tasks: Sequence[TensorTask]) -> None:
        """Take the addresses of the present gradients."""
        found = [task.g.data_ptr() for task in tasks]
        if self.offsets is not None:
            found = [found[index] + offset for index, offset in self.offsets]
        self.numbers[GRADIENT::ROW] = array("q", found)


def _row(spec: KernelSignature, task: TensorTask, start: int, stop: int) -> list[int]:
    """The row of cpu_c_step.c of a run of a task: size, addresses, dtypes, origin, and which entries sliced buffers keep."""
    fields = [task.buf.get(name) for name in spec.fields]
    addresses = [0 if t is None else t.data_ptr() + start * t.itemsize for t in fields]
    addresses += [0] * (BUFFERS - len(fields))
    kinds = [KINDS[task.x.dtype], KINDS[task.g.dtype], *(0 if t is None else KINDS[t.dtype] for t in fields)]
    kind = sum(kind << 4 * place for place, kind in enumerate(kinds))
    first, step = (task.cut.start, task.cut.step) if task.cut is not None and spec.statistic in task.buf else (0, 0)
    x = task.x.data_ptr() + start * task.x.itemsize
    return [stop - start, x, 0, *addresses, kind, task.origin + start, first, step]


def available() -> bool:
    """Whether there is a compiled step. Builds it at the first call, with one log line where that fails."""
    return cpu_c_library.load() is not None


def has_half() -> bool:
    """Whether this build can read and write float16."""
    loaded = cpu_c_library.load()
    return loaded is not None and bool(loaded.dadapt_abilities() & 1)


def supports(method: Method, task: TensorTask) -> bool:
    """Whether the compiled step can run this task: buffers in float32 or bfloat16, and all tensors alike in memory."""
    spec = method.own_signature()
    if spec is None or not task.x.is_cpu or task.g.layout is not torch.strided or not available():
        return False
    tensors = [task.x, task.g, *task.buf.values()]
    if not all(is_plain(t) and t.is_cpu and t.dtype in KINDS and t.data_ptr() % t.itemsize == 0 for t in tensors):
        return False
    if any(t.dtype is torch.float16 for t in tensors) and not has_half():
        return False
    if any(t.dtype is torch.float16 for t in task.buf.values()):
        return False
    if task.scale is not None and not task.scale.is_cpu:
        return False
    if len(task.runs) > 1 and not all(t.is_contiguous() for t in tensors):
        return False
    if task.cut is None:
        return is_dense_alike(tensors)
    return (
        spec.sliced
        and len(task.runs) <= 1
        and all(t.is_contiguous() for t in tensors)
        and is_dense_alike([t for t in tensors if t.shape == task.x.shape])
    )


def derive(method: Method, tasks: Sequence[TensorTask]) -> Rows:
    """The rows of these tasks."""
    spec = method.own_signature()
    assert spec is not None, "supports() accepts nothing without a signature"
    return Rows(spec, tasks)


def run(
    method: Method,
    tasks: Sequence[TensorTask],
    c: Coefficients,
    dry: bool,
    skip: Tensor | None = None,
    derived: Rows | None = None,
    apart: PerTensor | None = None,
) -> Tensor:
    """Run one step over tensors that `supports` has accepted: see `Kernel.run`. Raises MemoryError before anything moves."""
    if skip is not None and bool(skip):
        return torch.zeros(len(method.sums) + 1, dtype=torch.float64, device="cpu")
    loaded = cpu_c_library.load()
    assert loaded is not None, "supports() accepts nothing without a library"
    rows = derived or derive(method, tasks)
    rows.point(tasks)
    spec = rows.spec
    job = _job(spec, tasks[0], c, dry, None if apart is None else method.scaled)
    out = (ctypes.c_double * SUMS)()
    factors = squares = None
    if apart is not None and rows.tensors is not None:
        factors, squares = apart.factors[rows.tensors], torch.empty(rows.count, dtype=torch.float64, device="cpu")
    failed = loaded.dadapt_step(
        rows.count,
        rows.places.buffer_info()[0],
        rows.weights.buffer_info()[0],
        ctypes.addressof(job),
        ctypes.addressof(out),
        None if factors is None else factors.data_ptr(),
        None if squares is None else squares.data_ptr(),
    )
    check_result(failed, rows.count)
    if apart is not None and rows.tensors is not None and squares is not None:
        apart.put(rows.tensors, squares, None)
    if not dry:
        torch.autograd.graph.increment_version(rows.params)  # the writes went behind autograd's back
    sums = [value * float(factor) for value, factor in zip(out, spec.factors(c), strict=False)]
    return torch.tensor([*sums, out[SUMS - 1]], dtype=torch.float64, device="cpu")


def check_result(failed: int, count: int) -> None:
    """Raise the error of a number that cpu_c_step.c returned for so many tensors."""
    if failed == NONSENSE:
        raise ValueError(
            f"the compiled step refused its {count} tensors: a size, an address or a dtype that none can have"
        )
    if failed:
        raise MemoryError(f"no memory for the partial sums of {count} tensors; nothing of the step has moved")


def _job(spec: KernelSignature, task: TensorTask, c: Coefficients, dry: bool, scaled: str | None) -> Job:
    numbers = [1.0 if (value := c[name]) is None else float(value) for name in spec.coefficients]
    values = [min(max(number, -LARGEST), LARGEST) for number in numbers]  # inf would make 0·inf of a gradient of 0
    return Job(
        coefficient=(ctypes.c_double * COEFFICIENTS)(*values),
        scale=1.0 if task.scale is None else float(task.scale),
        decay=task.decay,
        safe=safe_size(values, c.get("keep")),
        method=spec.index,
        maximize=task.maximize,
        dry=dry,
        threads=torch.get_num_threads(),
        seed=int(c["seed"]) & 0xFFFFFFFF,
        scaled=-1 if scaled is None else spec.coefficients.index(scaled),
    )


def safe_size(values: Sequence[float], keep: float | None) -> float:
    """Gradients up to this size overflow nothing, whatever the buffers hold, with these coefficients; -1 where none is safe.

    A buffer at the largest float32 does not grow by adding so little to it. keep: what a decay multiplies the weights by, with
    which they grow beyond all bounds when it is below -1.
    """
    largest = max((COEFFICIENT, *map(abs, values)))
    return -1.0 if largest > WILD or abs(keep or 0.0) > 1 else SAFE * COEFFICIENT / largest
