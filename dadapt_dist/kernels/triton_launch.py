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

from ..methods.base import Coefficients, KernelSignature, Method
from .memory_checks import is_dense_alike, is_plain
from .tensor_task import PerTensor, TensorTask

logger = logging.getLogger(__name__)

KINDS = (torch.float32, torch.bfloat16, torch.float16)
BLOCK, BLOCKS, WARPS = 1024, 8, 8  # elements of a block, blocks of a program, warps of a program
BUFFERS, COEFFICIENTS = 5, 11


@functools.cache
def _kernel() -> Any:
    """The compiled kernel's module, or None where triton is not installed or does not load."""
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
    return _kernel() is not None and type(_kernel().step).__name__ == "InterpretedFunction"


def supports(method: Method, task: TensorTask) -> bool:
    """Whether the kernel can run this task: on a GPU, buffers in float32 or bfloat16, all tensors alike in memory, no slices."""
    x, g, buffers = task.x, task.g, task.buf.values()
    if not (x.is_cuda or (x.is_cpu and _interpreted())) or _kernel() is None:
        return False
    if method.own_signature() is None or task.cut is not None or g.layout is not torch.strided:
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
    """The tables of these tasks: one for each combination of dtypes, which is a launch."""
    spec = method.own_signature()
    assert spec is not None, "supports() accepts nothing without a signature"
    kinds: dict[Any, list[int]] = {}
    for index, task in enumerate(tasks):
        fields = [task.buf.get(name) for name in spec.fields]
        dtypes = (task.g.dtype, task.x.dtype, *(None if t is None else t.dtype for t in fields))
        kinds.setdefault(dtypes, []).append(index)
    return [Table(spec, tasks, same) for same in kinds.values()]


def run(
    method: Method,
    tasks: Sequence[TensorTask],
    c: Coefficients,
    dry: bool,
    skip: Tensor | None = None,
    derived: "list[Table] | None" = None,
    apart: PerTensor | None = None,
) -> Tensor:
    """Run one step over tensors that `supports` has accepted: see `Kernel.run`. Float64, on their device; nobody waits."""
    tables = derived or derive(method, tasks)
    spec, first = tables[0].spec, tasks[0]
    device = first.x.device
    values = [1.0 if c[name] is None else c[name] for name in spec.coefficients]
    values += [1.0] * (COEFFICIENTS - len(values))
    scale, skipped = 1.0 if first.scale is None else first.scale, 0.0 if skip is None else skip.to(device)
    h = _vector([*values, first.decay, scale, c["seed"], skipped], device)
    total = None
    for table in tables:
        sums = _launch(table, [tasks[index] for index in table.members], method, h, dry, skip, apart)
        total = sums if total is None else total + sums
    assert total is not None, "there is a task at least"
    return total * _vector([*spec.factors(c), 1.0], device)


def measure(method: Method, tasks: Sequence[TensorTask], c: Coefficients, derived: object = None) -> None:
    """No kernel measures: plain operations do."""


def _launch(
    table: "Table",
    tasks: list[TensorTask],
    method: Method,
    h: Tensor,
    dry: bool,
    skip: Tensor | None,
    apart: PerTensor | None,
) -> Tensor:
    table.follow(tasks)
    spec, dtypes, sums = table.spec, table.dtypes, len(method.sums)
    apart = apart if table.runs is not None else None
    factors = h if apart is None or table.runs is None else apart.factors[table.runs]
    fields = range(len(spec.fields))
    has = sum(1 << k for k in fields if dtypes[k] is not None)
    rounded = sum(1 << k for k in fields if dtypes[k] is torch.bfloat16)
    written = has & ((1 << (len(spec.fields) - spec.read_only)) - 1)
    columns = sums + 1 + (apart is not None)
    partial = torch.empty(table.programs, columns, dtype=torch.float64, device=h.device)
    if table.programs:
        first = tasks[0]
        bases = [first.x, first.g, *(first.buf.get(name, first.x) for name in spec.fields)]
        bases += [first.x] * (2 + BUFFERS - len(bases))
        with torch.cuda.device(h.device) if h.is_cuda else torch.no_grad():
            _kernel().step[(table.programs,)](
                *bases, table.distances, table.numels, table.origins, table.tensors, table.chunks, h, factors, partial,
                spec.index, has, rounded, written, sums, -1 if apart is None else spec.coefficients.index(method.scaled),
                dtypes[spec.fields.index(spec.statistic)] is not None,
                first.scale is not None, first.decay != 0, first.maximize, dry, torch.finfo(first.x.dtype).max,
                *table.units, BLOCK, BLOCKS, num_warps=WARPS, enable_fp_fusion=False,
            )  # fmt: skip
    if not dry:
        torch.autograd.graph.increment_version([task.x for task in tasks])  # the writes went behind autograd's back
    partial = partial * table.weights
    if apart is not None and table.runs is not None:
        squares = torch.segment_reduce(partial[:, -1].contiguous(), "sum", lengths=table.lengths, unsafe=True)
        apart.put(table.runs, squares, skip)
    return partial[:, : sums + 1].sum(0)


class Table:
    """Which program takes what, and where the tensors are: on the device, for as long as they stay.

    members: the tasks of the launch, by their places. dtypes: of the buffers in the kernel's order, None where there is
    none. programs: their number. tensors, chunks: for each, its tensor and its place in it. distances: int64 [tensors, 7],
    from the first tensor's x, g and buffers, in units of `units` elements. A task with several `runs` is as many tensors.
    runs, lengths: the number of each tensor among those of the model, and how many programs it has; None without `runs`.
    """

    def __init__(self, spec: KernelSignature, all_tasks: Sequence[TensorTask], members: list[int]) -> None:
        self.spec, self.members = spec, members
        tasks = [all_tasks[index] for index in members]
        self.device = tasks[0].x.device
        buffers = [[task.buf.get(name) for name in spec.fields] for task in tasks]
        self.dtypes = [None if t is None else t.dtype for t in buffers[0]]
        self._runs = [
            (place, start, stop)
            for place, task in enumerate(tasks)
            for _, start, stop in task.runs or ((0, 0, task.x.numel()),)
        ]
        x, g = tasks[0].x.itemsize, tasks[0].g.itemsize
        self._widths = [x, g, *(x if t is None else t.itemsize for t in buffers[0])]
        self._widths += [x] * (2 + BUFFERS - len(self._widths))
        self._x = self._starts([task.x for task in tasks])
        columns = [self._starts(column) for column in zip(*buffers, strict=True)]
        columns = [self._x if column is None else column for column in columns]
        self._buffers = columns + [self._x] * (BUFFERS - len(columns))
        self._gradients: list[int] = []
        self._lay_out(tasks)
        self.distances = torch.empty(0)
        self.units: list[int] = []

    def _starts(self, tensors: Sequence[Tensor | None]) -> Any:
        """The address at which each run begins in these tensors, one a task; None where there are none."""
        if tensors[0] is None:
            return None
        return [
            t.data_ptr() + start * t.itemsize for place, start, _ in self._runs if (t := tensors[place]) is not None
        ]

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
