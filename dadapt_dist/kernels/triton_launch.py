"""How does one step run on a GPU? All tensors of a group in one launch, and nothing that makes the host wait.

The kernel finds its tensors through a table of addresses on the device, which is sent there only when an address has
changed: a step with gradients that stay where they are can be captured in a CUDA graph.
"""

import functools
import importlib
import itertools
import logging
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..methods.base import Coefficients, Method
from .memory_checks import Seen, is_dense_alike, is_plain
from .signatures import SPECS, Spec, ordered
from .tensor_task import TensorTask

logger = logging.getLogger(__name__)

KINDS = (torch.float32, torch.bfloat16, torch.float16)
BLOCK, BLOCKS, WARPS = 1024, 8, 8  # elements of a block, blocks of a program, warps of a program
BUFFERS, COEFFICIENTS = 5, 11
PLANS = 8  # tables that a group keeps: tensors may go without a gradient in one step and have one in the next


@functools.cache
def _kernel() -> Any:
    """The compiled kernel's module, or None where triton is not installed or does not load."""
    try:
        return importlib.import_module(".triton_kernel", __package__)
    except ImportError as error:
        if (error.name or "").startswith(
            __package__
        ):  # a file of this package: an installation that lacks it is broken
            raise
        logger.debug("no triton: %s", error)
        return None


def available() -> bool:
    """Is triton there, and a GPU to run on (or triton's interpreter)?"""
    return _kernel() is not None and (torch.cuda.is_available() or _interpreted())


@functools.cache
def _interpreted() -> bool:
    return _kernel() is not None and type(_kernel().step).__name__ == "InterpretedFunction"


class Fit(Seen):
    """That a TensorTask's tensors fit the kernel, and where they are: for as long as it keeps them, all but the gradient.

    serial: never given twice, unlike an id. dtypes: of x and the buffers in the kernel's order, None where there is none.
    plans: those of the launches in which this tensor is the first; they live as long as it does.
    """

    __slots__ = ("buffers", "dtypes", "plans", "serial")
    count = itertools.count()

    def __init__(self, task: TensorTask, spec: Spec) -> None:
        super().__init__(task)
        self.serial = next(self.count)
        self.plans: dict[tuple[object, ...], Plan] = {}
        fields = [task.buf.get(name) for name in spec.fields]
        self.dtypes = (task.x.dtype, *(None if t is None else t.dtype for t in fields))
        tensors = [task.x if t is None else t for t in fields] + [task.x] * (BUFFERS - len(fields))
        self.buffers = [t.data_ptr() for t in tensors]

    def where(self, g: Tensor) -> list[int]:
        """The addresses of x, g and the buffers; of x where there is no buffer."""
        return [self.found[0], g.data_ptr(), *self.buffers]


def supports(method: Method, task: TensorTask) -> bool:
    """Can the kernel take this tensor? On a GPU, buffers float32 or bfloat16, all tensors alike in memory, nothing sliced."""
    if type(task.memo) is Fit:
        return task.memo.still(task) and task.g.data_ptr() % task.memo.width == 0  # if not, `check` must see it first
    fits = (task.x.is_cuda or (task.x.is_cpu and _interpreted())) and _fits(method, task)
    if fits:
        task.memo = Fit(task, SPECS[method.name])
    return fits


def _fits(method: Method, task: TensorTask) -> bool:
    x, g, buffers = task.x, task.g, task.buf.values()
    if _kernel() is None or method.name not in SPECS or task.cut is not None or g.layout is not torch.strided:
        return False
    if x.dtype not in KINDS or g.dtype not in KINDS or any(t.dtype not in KINDS[:2] for t in buffers):
        return False
    others = [g, *buffers] if task.scale is None else [g, task.scale, *buffers]
    if not all(is_plain(t) and t.device == x.device for t in (x, *others)) or not is_dense_alike([x, g, *buffers]):
        return False
    return all(t.data_ptr() % t.itemsize == 0 for t in (x, g, *buffers))


def run(method: Method, tasks: Sequence[TensorTask], c: Coefficients, dry: bool, skip: Tensor | None = None) -> Tensor:
    """Run one step over tensors that `supports` has accepted: see `kernels.run`. Float64, on their device; nobody waits."""
    spec, device = SPECS[method.name], tasks[0].x.device
    kinds: dict[Any, list[TensorTask]] = {}
    for task in tasks:
        kinds.setdefault((task.g.dtype, task.memo.dtypes), []).append(task)  # type: ignore[attr-defined]
    first = tasks[0]
    values = ordered(spec, c)
    values += [1.0] * (COEFFICIENTS - len(values))
    scale, skipped = 1.0 if first.scale is None else first.scale, 0.0 if skip is None else skip.to(device)
    h = _vector([*values, first.decay, scale, c["seed"], skipped], device)
    total = None
    for (_, (_, *dtypes)), same in kinds.items():
        sums = _launch(method, spec, same, dtypes, h, dry)
        total = sums if total is None else total + sums
    assert total is not None, "there is a task at least"
    return total * _vector([*spec.factors(c), 1.0], device)


def _launch(
    method: Method, spec: Spec, tasks: list[TensorTask], dtypes: Sequence[torch.dtype | None], h: Tensor, dry: bool
) -> Tensor:
    plan = _plan(tasks)
    plan.follow(tasks)
    fields = range(len(spec.fields))
    has = sum(1 << k for k in fields if dtypes[k] is not None)
    rounded = sum(1 << k for k in fields if dtypes[k] is torch.bfloat16)
    written = has & ((1 << (len(spec.fields) - spec.read_only)) - 1)
    sums = len(method.sums)
    partial = torch.empty(plan.programs, sums + 1, dtype=torch.float64, device=h.device)
    if plan.programs:
        first = tasks[0]
        bases = [first.x, first.g, *(first.buf.get(name, first.x) for name in spec.fields)]
        bases += [first.x] * (2 + BUFFERS - len(bases))
        with torch.cuda.device(h.device) if h.is_cuda else torch.no_grad():
            _kernel().step[(plan.programs,)](
                *bases, plan.distances, plan.numels, plan.origins, plan.tensors, plan.chunks, h, partial,
                spec.index, has, rounded, written, sums, dtypes[spec.fields.index("s")] is not None,
                first.scale is not None, first.decay != 0, first.maximize, dry, torch.finfo(first.x.dtype).max,
                *plan.units, BLOCK, BLOCKS, num_warps=WARPS, enable_fp_fusion=False,
            )  # fmt: skip
    if not dry:
        torch.autograd.graph.increment_version([task.x for task in tasks])  # the writes went behind autograd's back
    return (partial * plan.weights).sum(0)


class Plan:
    """Which program takes what, and where the tensors are: on the device, for as long as they stay.

    programs: their number. tensors, chunks: for each, its tensor and its place in it. distances: int64 [tensors, 7], from
    the first tensor's x, g and buffers, in units of `units` elements.
    """

    def __init__(self, tasks: list[TensorTask]) -> None:
        self.device = tasks[0].x.device
        sizes = [task.x.numel() for task in tasks]
        programs = [-(-size // (BLOCK * BLOCKS)) for size in sizes]
        self.programs = sum(programs)
        tensors = [t for t, number in enumerate(programs) for _ in range(number)]
        self.tensors = _sent(torch.tensor(tensors, dtype=torch.int32), self.device)
        chunks = [chunk for number in programs for chunk in range(number)]
        self.chunks = _sent(torch.tensor(chunks, dtype=torch.int32), self.device)
        self.numels = _sent(torch.tensor(sizes, dtype=torch.int64), self.device)
        self.origins = _sent(torch.tensor([task.origin for task in tasks], dtype=torch.int64), self.device)
        weights = [tasks[t].weight for t in tensors]
        self.weights = _sent(torch.tensor(weights, dtype=torch.float64).unsqueeze(1), self.device)
        self.distances = torch.empty(0)
        self.units: list[int] = []
        self._found: list[list[int]] = []

    def follow(self, tasks: list[TensorTask]) -> None:
        """Send the addresses to the device when one has changed."""
        found = [task.memo.where(task.g) for task in tasks]  # type: ignore[attr-defined]
        if found == self._found:
            return
        self._found = found
        first = tasks[0]
        dtypes = first.memo.dtypes  # type: ignore[attr-defined]
        widths = [t.itemsize for t in (first.x.dtype, first.g.dtype, *(t or first.x.dtype for t in dtypes[1:]))]
        widths += widths[:1] * (2 + BUFFERS - len(widths))
        columns, self.units = [], []
        for (base, *others), width in zip(zip(*found, strict=True), widths, strict=True):
            distances = [0, *(address - base for address in others)]
            aligned = base % 16 == 0 and all(distance % 16 == 0 for distance in distances)
            unit = 16 if aligned else width
            columns.append([distance // unit for distance in distances])
            self.units.append(unit // width)
        self.distances = _sent(torch.tensor(list(zip(*columns, strict=True)), dtype=torch.int64), self.device)


def _plan(tasks: list[TensorTask]) -> Plan:
    """The plan of a launch over these tasks: the one of the step before, or a new one."""
    plans: dict[tuple[object, ...], Plan] = tasks[0].memo.plans  # type: ignore[attr-defined]
    key = (tasks[0].g.dtype, *[task.memo.serial for task in tasks])  # type: ignore[attr-defined]
    plan = plans.pop(key, None) or Plan(tasks)
    plans[key] = plan  # the last used comes last
    if len(plans) > PLANS:
        del plans[next(iter(plans))]
    return plan


def _vector(values: Sequence[Any], device: torch.device) -> Tensor:
    """Numbers and 0-dim tensors as one float64 tensor on the device, with one launch and no wait."""
    numbers = _constants(tuple(0.0 if isinstance(v, Tensor) else float(v) for v in values), device)
    return torch.stack([v.double() if isinstance(v, Tensor) else n for v, n in zip(values, numbers, strict=True)])


@functools.lru_cache(maxsize=1024)
def _constants(values: tuple[float, ...], device: torch.device) -> tuple[Tensor, ...]:
    return _sent(torch.tensor(values, dtype=torch.float64), device).unbind(0)


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
