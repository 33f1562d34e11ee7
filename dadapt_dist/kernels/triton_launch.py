"""Run a step on a GPU: all tensors of a group in one launch, and nothing that makes the host wait.

The kernel finds its tensors through a table of addresses on the device, which is sent there only when an address has
changed: a step with gradients that stay where they are can be captured in a CUDA graph.
"""

import functools
import importlib
import logging
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..methods.base import Coefficients, Method
from .cpu_c import kinds_of
from .memory_checks import is_dense_alike, is_plain
from .recorded_method import Kinds
from .tensor_task import PerTensor, TensorTask
from .traced_method import in_order
from .triton_program import Program, program

logger = logging.getLogger(__name__)

KINDS = (torch.float32, torch.bfloat16, torch.float16)
BLOCK, BLOCKS, WARPS = 1024, 8, 8  # elements of a block, blocks of a program, warps of a program


@functools.cache
def _kernel() -> Any:
    """The module of what all kernels share, or None where triton is not installed or does not load."""
    try:
        return importlib.import_module(".triton_kernel", __package__)
    except ImportError as error:
        if (error.name or "").startswith(__package__):  # an installation that lacks a file of this package is broken
            raise
        logger.debug("no triton: %s", error)
        return None


def available() -> bool:
    """Whether there is triton, and a GPU to run on (or triton's interpreter)."""
    return _kernel() is not None and (torch.cuda.is_available() or _interpreted())


@functools.cache
def _interpreted() -> bool:
    return _kernel() is not None and type(_kernel().read).__name__ == "InterpretedFunction"


def supports(method: Method, task: TensorTask) -> bool:
    """Whether a kernel can run this task: on a GPU, buffers in float32 or bfloat16, all tensors alike in memory, no slices.

    Whether one can be made of the method only its coefficients tell: `run` takes the plain loop where there is none.
    """
    x, g, buffers = task.x, task.g, task.buf.values()
    if not (x.is_cuda or (x.is_cpu and _interpreted())) or _kernel() is None:
        return False
    if method.runs_base or task.cut is not None or g.layout is not torch.strided:
        return False
    if x.dtype not in KINDS or g.dtype not in KINDS or any(t.dtype not in KINDS[:2] for t in buffers):
        return False
    others = [g, *buffers] if task.scale is None else [g, task.scale, *buffers]
    if not all(is_plain(t) and t.device == x.device for t in (x, *others)) or not is_dense_alike([x, g, *buffers]):
        return False
    if len(task.runs) > 1 and not x.is_contiguous():
        return False
    return all(t.data_ptr() % t.itemsize == 0 for t in (x, g, *buffers))


def derive(method: Method, tasks: Sequence[TensorTask]) -> "list[Table]":
    """The tables of these tasks: one for each combination of buffers and dtypes, which is a launch."""
    kinds: dict[Any, list[int]] = {}
    for index, task in enumerate(tasks):
        fields = in_order(method, task.buf)
        dtypes = (fields, task.g.dtype, task.x.dtype, *(task.buf[name].dtype for name in fields))
        kinds.setdefault(dtypes, []).append(index)
    return [Table(in_order(method, tasks[same[0]].buf), tasks, same) for same in kinds.values()]


def run(
    method: Method,
    tasks: Sequence[TensorTask],
    c: Coefficients,
    dry: bool,
    skip: Tensor | None = None,
    derived: "list[Table] | None" = None,
    apart: PerTensor | None = None,
) -> Tensor | None:
    """Run one step over tensors that `supports` has accepted: see `Kernel.run`. Float64, on their device; nobody waits."""
    tables = derived or derive(method, tasks)
    calls = _calls(tables, method, c, "step")
    if calls is None or (apart is not None and any(method.scaled in made.found.for_all for _, made, _ in calls)):
        return None
    first = tasks[0]
    device = first.x.device
    last = (1.0 if first.scale is None else first.scale, c["seed"], 0.0 if skip is None else skip.to(device))
    options = (first.scale is not None, first.decay != 0, first.maximize, dry)
    total = None
    for table, made, kernel in calls:
        h = _vector([*(c[name] for name in made.coefficients), first.decay, *last], device)
        some = [tasks[index] for index in table.members]
        table.follow(some)
        own = apart if table.runs is not None else None
        columns = len(method.sums) + 1 + (own is not None)
        partial = torch.empty(table.programs, columns, dtype=torch.float64, device=device)
        factors = h if own is None or table.runs is None else own.factors[table.runs]
        largest = torch.finfo(some[0].x.dtype).max
        _launch(kernel, table, some, h, (factors, partial), (own is not None, *options, largest, table.rounded))
        if not dry:
            torch.autograd.graph.increment_version([task.x for task in some])  # the writes went behind autograd's back
        partial = partial * table.weights
        if own is not None and table.runs is not None:
            squares = torch.segment_reduce(partial[:, -1].contiguous(), "sum", lengths=table.lengths, unsafe=True)
            own.put(table.runs, squares, skip)
        sums = partial[:, : len(method.sums) + 1].sum(0)
        total = sums if total is None else total + sums
    return total


def measure(
    method: Method, tasks: Sequence[TensorTask], c: Coefficients, derived: "list[Table] | None" = None
) -> Tensor | None:
    """The sums of before a step, whose tensors only are read: see `Kernel.measure`."""
    assert method.before is not None, "nobody measures without sums"
    calls = _calls(derived or derive(method, tasks), method, c, "measure")
    if calls is None:
        return None
    first, device = tasks[0], tasks[0].x.device
    scale = 1.0 if first.scale is None else first.scale
    total = None
    for table, made, kernel in calls:
        h = _vector([*(c[name] for name in made.coefficients), first.decay, scale], device)
        some = [tasks[index] for index in table.members]
        table.follow(some)
        partial = torch.empty(table.programs, len(method.before.names) + 1, dtype=torch.float64, device=device)
        _launch(kernel, table, some, h, (partial,), (first.scale is not None, first.decay != 0, first.maximize))
        sums = (partial * table.weights).sum(0)
        total = sums if total is None else total + sums
    return total


def _calls(
    tables: "Sequence[Table]", method: Method, c: Coefficients, name: str
) -> "list[tuple[Table, Program, Any]] | None":
    """Each table with its program and its kernel of this name; None where some have none."""
    kinds, found = kinds_of(c), []
    for table in tables:
        made = table.program(method, kinds)
        kernel = None if made is None else made.step(c) if name == "step" else made.measure(c)
        if made is None or kernel is None:
            return None
        found.append((table, made, kernel))
    return found


def _launch(
    kernel: Any, table: "Table", tasks: list[TensorTask], h: Tensor, last: tuple[Tensor, ...], options: tuple[Any, ...]
) -> None:
    """Run a kernel over a table. last: further tensors. options: what it is compiled for, beside units and blocks."""
    if not table.programs:
        return
    first = tasks[0]
    with torch.cuda.device(h.device) if h.is_cuda else torch.no_grad():
        kernel[(table.programs,)](
            first.x, first.g, *(first.buf[name] for name in table.fields),
            table.distances, table.numels, table.origins, table.tensors, table.chunks, h, *last,
            *options, *table.units, BLOCK, BLOCKS, num_warps=WARPS, enable_fp_fusion=False,
        )  # fmt: skip


class Table:
    """Which program takes what, and where the tensors are: on the device, for as long as they stay.

    members: the tasks of the launch, by their places. fields: their buffers, in the kernel's order; rounded: which of these are
    in bfloat16, a bit each. programs: their number. tensors, chunks: for each, its tensor and its place in it. distances: int64
    [tensors, 2 + buffers], from the first tensor's x, g and buffers, in units of `units` elements. A task with several `runs` is
    as many tensors. runs, lengths: the number of each tensor among those of the model, and how many programs it has; None
    without `runs`.
    """

    def __init__(self, fields: tuple[str, ...], all_tasks: Sequence[TensorTask], members: list[int]) -> None:
        self.fields, self.members = fields, members
        self._programs: dict[type[Method], tuple[Kinds, Program | None]] = {}
        tasks = [all_tasks[index] for index in members]
        self.device = tasks[0].x.device
        first = [tasks[0].buf[name] for name in fields]
        self.rounded = sum(1 << place for place, t in enumerate(first) if t.dtype is torch.bfloat16)
        self._runs = [
            (place, start, stop)
            for place, task in enumerate(tasks)
            for _, start, stop in task.runs or ((0, 0, task.x.numel()),)
        ]
        self._widths = [t.itemsize for t in (tasks[0].x, tasks[0].g, *first)]
        self._x = self._starts([task.x for task in tasks])
        self._buffers = [self._starts([task.buf[name] for task in tasks]) for name in fields]
        self._gradients: list[int] = []
        self._lay_out(tasks)
        self.distances = torch.empty(0)
        self.units: list[int] = []

    def program(self, method: Method, kinds: Kinds) -> Program | None:
        """The method's kernels for these buffers."""
        found = self._programs.get(type(method))
        if found is None or found[0] != kinds:
            found = self._programs[type(method)] = kinds, program(method, self.fields, kinds)
        return found[1]

    def _starts(self, tensors: Sequence[Tensor]) -> list[int]:
        """The address at which each run begins in these tensors, one a task."""
        return [tensors[place].data_ptr() + start * tensors[place].itemsize for place, start, _ in self._runs]

    def _lay_out(self, tasks: list[TensorTask]) -> None:
        sizes = [stop - start for _, start, stop in self._runs]
        programs = [-(-size // (BLOCK * BLOCKS)) for size in sizes]
        self.programs = sum(programs)
        tensors = [t for t, number in enumerate(programs) for _ in range(number)]
        self.tensors = _sent(torch.tensor(tensors, dtype=torch.int32, device="cpu"), self.device)
        chunks = [chunk for number in programs for chunk in range(number)]
        self.chunks = _sent(torch.tensor(chunks, dtype=torch.int32, device="cpu"), self.device)
        self.numels = _sent(torch.tensor(sizes, dtype=torch.int64, device="cpu"), self.device)
        origins = [tasks[place].origin + start for place, start, _ in self._runs]
        self.origins = _sent(torch.tensor(origins, dtype=torch.int64, device="cpu"), self.device)
        weights = [tasks[self._runs[t][0]].weight for t in tensors]
        self.runs = self.lengths = None
        if all(task.runs for task in tasks):
            numbers = [tensor for task in tasks for tensor, _, _ in task.runs]
            self.runs = _sent(torch.tensor(numbers, dtype=torch.int64, device="cpu"), self.device)
            self.lengths = _sent(torch.tensor(programs, dtype=torch.int64, device="cpu"), self.device)
        self.weights = _sent(torch.tensor(weights, dtype=torch.float64, device="cpu").unsqueeze(1), self.device)

    def follow(self, tasks: list[TensorTask]) -> None:
        """Send the addresses to the device when a gradient lies elsewhere than in the step before."""
        gradients = self._starts([task.g for task in tasks])
        if gradients == self._gradients:
            return
        columns, self.units = [], []
        for (base, *others), width in zip((self._x, gradients, *self._buffers), self._widths, strict=True):
            distances = [0, *(address - base for address in others)]
            aligned = base % 16 == 0 and all(distance % 16 == 0 for distance in distances)
            unit = 16 if aligned else width
            columns.append([distance // unit for distance in distances])
            self.units.append(unit // width)
        self.distances = _sent(
            torch.tensor(list(zip(*columns, strict=True)), dtype=torch.int64, device="cpu"), self.device
        )
        self._gradients = gradients


def _vector(values: Sequence[Any], device: torch.device) -> Tensor:
    """Numbers and 0-dim tensors as one float64 tensor on the device, with one launch and no wait."""
    numbers = _constants(tuple(0.0 if isinstance(v, Tensor) else float(v) for v in values), device)
    return torch.stack([v.double() if isinstance(v, Tensor) else n for v, n in zip(values, numbers, strict=True)])


@functools.lru_cache(maxsize=1024)
def _constants(values: tuple[float, ...], device: torch.device) -> tuple[Tensor, ...]:
    return _sent(torch.tensor(values, dtype=torch.float64, device="cpu"), device).unbind(0)


def _sent(t: Tensor, device: torch.device) -> Tensor:
    """A copy on the device for which the host does not wait: it needs memory of its own that is pinned.

    Raises RuntimeError inside a CUDA graph, whose replays would read that memory when others have it.
    """
    if device.type != "cuda":
        return t
    if torch.cuda.is_current_stream_capturing():
        raise RuntimeError(
            "this step cannot be captured in a CUDA graph: an address or an option is new to it. Take two steps before the "
            "capture, with the gradients where they will stay (zero_grad(set_to_none=False), or copy into them)."
        )
    return t.pin_memory().to(device, non_blocking=True)
