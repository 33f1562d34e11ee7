"""How does one step run on the CPU, compiled? All tensors of a group in one call of cpu_c_step.c, read and written once each."""

import ctypes
from array import array
from collections.abc import Sequence

import torch
from torch import Tensor

from ..methods.base import Coefficients, Method
from . import cpu_c_library
from .memory_checks import Seen, is_dense_alike, is_plain
from .overflow_guard import bounded, safe_size
from .signatures import SPECS, Spec, ordered
from .tensor_task import TensorTask

KINDS = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}  # the codes of cpu_c_step.c
LARGEST = torch.finfo(torch.float32).max
NONSENSE = 2  # cpu_c_step.c's word for rows that cannot be
BUFFERS, SUMS, COEFFICIENTS = 5, 4, 12  # the sizes of cpu_c_step.c's arrays


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
        ("spare", ctypes.c_uint32),
    )


class Memo(Seen):
    """What stays the same while a TensorTask keeps its tensors: its row of cpu_c_step.c, but for the gradient."""

    __slots__ = ("odd", "place", "row")

    def __init__(self, task: TensorTask, spec: Spec) -> None:
        super().__init__(task)
        fields = [task.buf.get(name) for name in spec.fields]
        addresses = [0 if t is None else t.data_ptr() for t in fields]
        kinds = [KINDS[task.x.dtype], KINDS[task.g.dtype], *(0 if t is None else KINDS[t.dtype] for t in fields)]
        kind = sum(kind << 4 * place for place, kind in enumerate(kinds))
        first, step = (task.cut.start, task.cut.step) if task.cut is not None and "s" in task.buf else (0, 0)
        addresses += [0] * (BUFFERS - len(addresses))
        self.row = array("q", [task.x.numel(), task.x.data_ptr(), 0, *addresses, kind, task.origin, first, step])
        self.odd = (
            self.width - 1
        )  # a gradient that lies elsewhere in the next step may lie at an address that no float has
        self.place = self.row.buffer_info()[0]


def available() -> bool:
    """Is there a compiled step? Builds it at the first call, with one log line where that fails."""
    return cpu_c_library.load() is not None


def has_half() -> bool:
    """Can this build read and write float16?"""
    loaded = cpu_c_library.load()
    return loaded is not None and bool(loaded.dadapt_abilities() & 1)


def supports(method: Method, task: TensorTask) -> bool:
    """Can the compiled step take this tensor? Its buffers must be float32 or bfloat16, and all tensors lie in memory alike."""
    memo = task.memo
    if type(memo) is not Memo:
        if not task.x.is_cpu or not _fits(method, task):
            return False
        task.memo = memo = Memo(task, SPECS[method.name])
    elif not memo.still(task):  # `check` must see it first
        return False
    memo.row[2] = address = task.g.data_ptr()
    return not address & memo.odd


def point(tasks: Sequence[TensorTask]) -> bool:
    """Take the present gradients of tasks that are what they were; False where one lies at an address that no float has."""
    odd = 0
    for task in tasks:
        task.memo.row[2] = address = task.g.data_ptr()  # type: ignore[attr-defined]
        odd |= address & task.memo.odd  # type: ignore[attr-defined]
    return not odd


def _fits(method: Method, task: TensorTask) -> bool:
    spec = SPECS.get(method.name)
    if spec is None or task.g.layout is not torch.strided or not available():
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
    if task.cut is None:
        return is_dense_alike(tensors)
    return (
        spec.sliced
        and all(t.is_contiguous() for t in tensors)
        and is_dense_alike([t for t in tensors if t.shape == task.x.shape])
    )


def run(method: Method, tasks: Sequence[TensorTask], c: Coefficients, dry: bool, skip: Tensor | None = None) -> Tensor:
    """Run one step over tensors that `supports` has accepted: see `kernels.run`. Raises MemoryError before anything moves."""
    if skip is not None and bool(skip):
        return torch.zeros(len(method.sums) + 1, dtype=torch.float64)
    spec, loaded = SPECS[method.name], cpu_c_library.load()
    assert loaded is not None, "takes() accepts nothing without a library"
    rows = array("q", [task.memo.place for task in tasks])  # type: ignore[attr-defined]
    weights = array("d", [task.weight for task in tasks])
    job = _job(spec, tasks[0], c, dry)
    out = (ctypes.c_double * SUMS)()
    failed = loaded.dadapt_step(
        len(tasks), rows.buffer_info()[0], weights.buffer_info()[0], ctypes.addressof(job), ctypes.addressof(out)
    )
    _check_result(failed, len(tasks))
    if not dry:
        torch.autograd.graph.increment_version([task.x for task in tasks])  # the writes went behind autograd's back
    factors = [float(factor) for factor in spec.factors(c)]
    sums = [value * factor for value, factor in zip(out, factors, strict=False)]
    return torch.tensor([*sums, out[SUMS - 1]], dtype=torch.float64)


def _check_result(failed: int, count: int) -> None:
    if failed == NONSENSE:
        raise ValueError(
            f"the compiled step refused its {count} tensors: a size, an address or a dtype that none can have"
        )
    if failed:
        raise MemoryError(f"no memory for the partial sums of {count} tensors; nothing of the step has moved")


def _job(spec: Spec, task: TensorTask, c: Coefficients, dry: bool) -> Job:
    values = [float(bounded(float(value), LARGEST)) for value in ordered(spec, c)]
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
    )


def traffic(tensors: Sequence[Sequence[Tensor]], written: int, by: float = 1.0) -> None:
    """Read and write memory as a step does, and compute next to nothing: what memory alone allows.

    tensors: for each parameter x, g and further ones, contiguous float32 on the CPU and of one size. x and the first
    `written` of the further ones are read, multiplied with `by` and written, all others read.
    """
    loaded = cpu_c_library.load()
    assert loaded is not None, "the traffic is measured by the compiled library"
    used = len(tensors[0]) - 2
    rows = [[t[0].numel(), *(x.data_ptr() for x in t), *[0] * (BUFFERS - used), 0, 0, 0, 0] for t in tensors]
    memory = array("q", [number for row in rows for number in row])
    size = 8 * len(rows[0])
    places = array("q", [memory.buffer_info()[0] + size * index for index in range(len(rows))])
    job = Job(scale=1.0, safe=torch.finfo(torch.float32).max, method=len(SPECS), threads=torch.get_num_threads())
    job.coefficient[:3] = [written, used, by]
    weights, out = array("d", [1.0] * len(rows)), (ctypes.c_double * SUMS)()
    arguments = (places.buffer_info()[0], weights.buffer_info()[0], ctypes.addressof(job), ctypes.addressof(out))
    _check_result(loaded.dadapt_step(len(rows), *arguments), len(rows))
