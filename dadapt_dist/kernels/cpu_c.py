"""Run a step on the CPU, compiled: all tensors of a group in one call of cpu_c_step.c, each read and written once."""

import ctypes
import functools
from array import array
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..methods.base import Coefficients, Method
from . import cpu_c_library
from .cpu_c_program import BUFFERS, COEFFICIENTS, SUMS, Program, program
from .memory_checks import is_dense_alike, is_plain
from .recorded_method import NUMBER, OTHER, Kinds
from .tensor_task import PerTensor, TensorTask
from .traced_method import in_order

KINDS = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}  # the codes of cpu_c_step.c
LARGEST = torch.finfo(torch.float32).max
SAFE, COEFFICIENT, WILD = 2.0**40, 2.0**20, 2.0**60
NONSENSE = 2  # cpu_c_step.c's word for rows that cannot be
ROW, GRADIENT = 7 + BUFFERS, 2  # numbers of a row of cpu_c_step.c, and the place of the gradient's address among them


class Job(ctypes.Structure):
    """job_t of cpu_c_step.c."""

    _fields_ = (
        ("coefficient", ctypes.c_double * COEFFICIENTS),
        ("scale", ctypes.c_double),
        ("decay", ctypes.c_double),
        ("safe", ctypes.c_double),
        ("method", ctypes.c_void_p),
        ("maximize", ctypes.c_int32),
        ("dry", ctypes.c_int32),
        ("threads", ctypes.c_int32),
        ("seed", ctypes.c_uint32),
        ("scaled", ctypes.c_int32),
    )


class Rows:
    """What cpu_c_step.c is told of tasks with the same buffers: rows of numbers, in which only the gradient's address changes.

    A task has one row; with `runs`, one for each tensor of the model in it. members: the places of the tasks. fields: the
    buffers; sliced: those of which a tensor keeps some entries. tensors: int64 [n_rows], the numbers of the tensors of the
    model, or None. offsets: of each row the first element, and the place of its task.
    """

    def __init__(self, method: Method, every: Sequence[TensorTask], members: Sequence[int]) -> None:
        tasks = [every[index] for index in members]
        self.members = members
        self._programs: dict[type[Method], tuple[Kinds, Program | None]] = {}
        self.fields, self.sliced = fields_of(method, tasks[0])
        runs = [task.runs or ((0, 0, task.x.numel()),) for task in tasks]
        self.count = sum(map(len, runs))
        self.numbers = array(
            "q",
            [
                number
                for task, of_task in zip(tasks, runs, strict=True)
                for _, start, stop in of_task
                for number in self._row(task, start, stop)
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

    def program(self, method: Method, kinds: Kinds) -> Program | None:
        """The method's functions for these buffers."""
        found = self._programs.get(type(method))
        if found is None or found[0] != kinds:
            found = self._programs[type(method)] = kinds, program(method, self.fields, self.sliced, kinds)
        return found[1]

    def _row(self, task: TensorTask, start: int, stop: int) -> list[int]:
        """The row of a run of a task: size, addresses, dtypes, origin, and which entries sliced buffers keep."""
        fields = [task.buf[name] for name in self.fields]
        addresses = [t.data_ptr() + start * t.itemsize for t in fields] + [0] * (BUFFERS - len(fields))
        kinds = [KINDS[t.dtype] for t in (task.x, task.g, *fields)]
        kind = sum(kind << 4 * place for place, kind in enumerate(kinds))
        first, step = (task.cut.start, task.cut.step) if task.cut is not None and self.sliced else (0, 0)
        x = task.x.data_ptr() + start * task.x.itemsize
        return [stop - start, x, 0, *addresses, kind, task.origin + start, first, step]


def fields_of(method: Method, task: TensorTask) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """(the buffers of a task in the order of the kernels, those of them that keep some entries alone)."""
    fields = in_order(method, task.buf)
    return fields, () if task.cut is None else tuple(name for name in fields if name in _sliced(type(method)))


@functools.cache
def _sliced(method: type[Method]) -> frozenset[str]:
    specs = method().buffers(method.options.defaults())
    return frozenset(name for name, spec in specs.items() if spec.sliced)


def available() -> bool:
    """Whether there is a compiled step. Builds it at the first call, with one log line where that fails."""
    return cpu_c_library.load() is not None


def has_half() -> bool:
    """Whether this build can read and write float16."""
    loaded = cpu_c_library.load()
    return loaded is not None and bool(loaded.dadapt_abilities() & 1)


def supports(method: Method, task: TensorTask) -> bool:
    """Whether the compiled step can run this task: buffers in float32 or bfloat16, and all tensors alike in memory.

    Whether a program can be made of the method only its coefficients tell: `run` takes the plain loop where there is none.
    """
    if method.runs_base or not task.x.is_cpu or task.g.layout is not torch.strided or not available():
        return False
    tensors = [task.x, task.g, *task.buf.values()]
    if not all(is_plain(t) and t.is_cpu and t.dtype in KINDS and t.data_ptr() % t.itemsize == 0 for t in tensors):
        return False
    if any(t.dtype is torch.float16 for t in tensors) and not has_half():
        return False
    if len(task.buf) > BUFFERS or any(t.dtype is torch.float16 for t in task.buf.values()):
        return False
    if task.scale is not None and not task.scale.is_cpu:
        return False
    if len(task.runs) > 1 and not all(t.is_contiguous() for t in tensors):
        return False
    if not fields_of(method, task)[1]:
        return is_dense_alike(tensors)
    return (
        len(task.runs) <= 1
        and all(t.is_contiguous() for t in tensors)
        and is_dense_alike([t for t in tensors if t.shape == task.x.shape])
    )


def derive(method: Method, tasks: Sequence[TensorTask]) -> list[Rows]:
    """The rows of these tasks: those of tasks with the same buffers are one call."""
    alike: dict[object, list[int]] = {}
    for index, task in enumerate(tasks):
        alike.setdefault(fields_of(method, task), []).append(index)
    return [Rows(method, tasks, members) for members in alike.values()]


def run(
    method: Method,
    tasks: Sequence[TensorTask],
    c: Coefficients,
    dry: bool,
    skip: Tensor | None = None,
    derived: Sequence[Rows] | None = None,
    apart: PerTensor | None = None,
) -> Tensor | None:
    """Run one step over tensors that `supports` has accepted: see `Kernel.run`. Raises MemoryError before anything moves."""
    total = torch.zeros(len(method.sums) + 1, dtype=torch.float64, device="cpu")
    if skip is not None and bool(skip):
        return total
    calls = _calls(method, derived or derive(method, tasks), c, bounded=True)
    if calls is None or (apart is not None and any(method.scaled in call.program.for_all for call in calls)):
        return None
    for call in calls:
        some = [tasks[index] for index in call.rows.members]
        job = _job(call, some[0], c, dry, None if apart is None else method.scaled)
        total += _called(call, some, job, apart, len(method.sums))
        if not dry:
            torch.autograd.graph.increment_version(call.rows.params)  # the writes went behind autograd's back
    return total


def measure(
    method: Method, tasks: Sequence[TensorTask], c: Coefficients, derived: Sequence[Rows] | None = None
) -> Tensor | None:
    """The sums of before a step, whose tensors only are read: see `Kernel.measure`."""
    assert method.before is not None, "nobody measures without sums"
    calls = _calls(method, derived or derive(method, tasks), c, bounded=False)
    if calls is None:
        return None
    total = torch.zeros(len(method.before.names) + 1, dtype=torch.float64, device="cpu")
    for call in calls:
        some = [tasks[index] for index in call.rows.members]
        total += _called(call, some, _job(call, some[0], c, True, None), None, len(method.before.names))
    return total


class Call(NamedTuple):
    """One call of cpu_c_step.c. way: the number of the way through the method. values: its coefficients, in their order."""

    rows: Rows
    program: Program
    way: int
    values: Any


def _calls(method: Method, every: Sequence[Rows], c: Coefficients, *, bounded: bool) -> list[Call] | None:
    """The calls of a step, or of a measure, whose coefficients are not `bounded`; None where some rows have no program."""
    kinds, found = kinds_of(c), []
    for rows in every:
        made = rows.program(method, kinds)
        if made is None:
            return None
        values = (ctypes.c_double * COEFFICIENTS)(*(float(c[name]) for name in made.coefficients))
        if bounded:  # inf would make 0·inf of a gradient of 0
            values[:] = [min(max(value, -LARGEST), LARGEST) for value in values]
        way = made.library.dadapt_way(ctypes.addressof(values), not bounded)
        if way < 0:
            return None
        found.append(Call(rows, made, way, values))
    return found


def kinds_of(c: Coefficients) -> Kinds:
    """What a kernel depends on: which coefficients are numbers, and what the others are."""
    return tuple((name, value if value is None else kind_of(value)) for name, value in c.items())


def kind_of(value: Any) -> Any:
    """NUMBER, OTHER, or what a coefficient is."""
    if isinstance(value, (bool, str)):
        return value
    return NUMBER if isinstance(value, (float, int)) or (isinstance(value, Tensor) and value.dim() == 0) else OTHER


def _called(call: Call, tasks: Sequence[TensorTask], job: Job, apart: PerTensor | None, sums: int) -> Tensor:
    """The sums of one call, and the count of gradient elements that are of no use."""
    loaded = cpu_c_library.load()
    assert loaded is not None, "supports() accepts nothing without a library"
    rows = call.rows
    rows.point(tasks)
    raw, out = (ctypes.c_double * SUMS)(), (ctypes.c_double * SUMS)()
    factors = squares = None
    if apart is not None and rows.tensors is not None:
        factors, squares = apart.factors[rows.tensors], torch.empty(rows.count, dtype=torch.float64, device="cpu")
    failed = loaded.dadapt_step(
        rows.count,
        rows.places.buffer_info()[0],
        rows.weights.buffer_info()[0],
        ctypes.addressof(job),
        ctypes.addressof(raw),
        None if factors is None else factors.data_ptr(),
        None if squares is None else squares.data_ptr(),
    )
    check_result(failed, rows.count)
    if apart is not None and rows.tensors is not None and squares is not None:
        apart.put(rows.tensors, squares, None)
    call.program.library.dadapt_sums(call.way, *map(ctypes.addressof, (call.values, raw, out)))
    return torch.tensor([*out[:sums], raw[SUMS - 1]], dtype=torch.float64, device="cpu")


def check_result(failed: int, count: int) -> None:
    """Raise the error of a number that cpu_c_step.c returned for so many tensors."""
    if failed == NONSENSE:
        raise ValueError(
            f"the compiled step refused its {count} tensors: a size, an address or a dtype that none can have"
        )
    if failed:
        raise MemoryError(f"no memory for the partial sums of {count} tensors; nothing of the step has moved")


def _job(call: Call, task: TensorTask, c: Coefficients, dry: bool, scaled: str | None) -> Job:
    numbers = [float(value) for name, value in c.items() if name != "seed" and kind_of(value) is NUMBER]
    return Job(
        coefficient=call.values,
        scale=1.0 if task.scale is None else float(task.scale),
        decay=task.decay,
        safe=safe_size([min(max(number, -LARGEST), LARGEST) for number in numbers], c.get("keep")),
        method=call.program.library.dadapt_method(call.way),
        maximize=task.maximize,
        dry=dry,
        threads=torch.get_num_threads(),
        seed=int(c["seed"]) & 0xFFFFFFFF,
        scaled=-1 if scaled is None else call.program.coefficients.index(scaled),
    )


def safe_size(values: Sequence[float], keep: float | None) -> float:
    """Gradients up to this size overflow nothing, whatever the buffers hold, with these coefficients; -1 where none is safe.

    A buffer at the largest float32 does not grow by adding so little to it. keep: what a decay multiplies the weights by, with
    which they grow beyond all bounds when it is below -1.
    """
    largest = max((COEFFICIENT, *map(abs, values)))
    return -1.0 if largest > WILD or abs(keep or 0.0) > 1 else SAFE * COEFFICIENT / largest
