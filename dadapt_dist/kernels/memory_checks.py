"""Checks of the tensors of a step before a kernel gets their addresses.

Nothing below the addresses can see that a parameter was resized under its buffers, that its storage was freed, or that a
tensor has no elements of its own. All of that is checked here, once for every task; the step plan's fingerprint then tells
whether anything has changed since. Nor does torch know that an array of numpy is mapped read-only (`np.memmap(mode="r")`),
whose writing ends the process: Linux tells.
"""

import itertools
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from .tensor_task import TensorTask

REBUILD = "Rebuild the state of a parameter that was changed: optimizer.state.pop(p)"
NO_ELEMENTS = "and has no elements to train. Step with ordinary tensors"
SHARED = "has elements that share memory (expand()?): clone() it"
MAPS = "/proc/self/maps"
Run = tuple[int, int]  # first address, and the one behind the last


class UnfitError(ValueError):
    """A tensor of a step cannot be used as it is. task: the task that it belongs to."""

    def __init__(self, task: TensorTask, said: str, kind: type[Exception] = ValueError) -> None:
        super().__init__(said)
        self.task, self.kind = task, kind


def is_dense_alike(tensors: Sequence[Tensor]) -> bool:
    """Whether equal places in memory hold equal elements: all contiguous, or all dense in the same order (channels_last)."""
    first = tensors[0]
    if any(t.shape != first.shape for t in tensors):
        return False
    if all(t.is_contiguous() for t in tensors):
        return True
    return all(t.stride() == first.stride() for t in tensors) and _is_dense(first)


def _is_dense(t: Tensor) -> bool:
    expected = 1
    for stride, size in sorted((stride, size) for stride, size in zip(t.stride(), t.shape, strict=True) if size != 1):
        if stride != expected:
            return False
        expected *= size
    return True


def _written(task: TensorTask) -> list[tuple[str, Tensor]]:
    """What a step writes, with its name in errors."""
    return [("it", task.x), *((f"its buffer {name}", t) for name, t in task.buf.items())]


# ---------------------------------------------------------------- one look at everything


def check(task: TensorTask) -> None:
    """Raise UnfitError unless x, g and the buffers of a task belong together and have the memory that they claim."""
    x, g = task.x, task.g
    itself, *buffers = _written(task)
    named = [itself, ("its gradient", g), *buffers]
    for name, t in named:
        if wrong := _wrong_kind(t, may_be_sparse=t is g):
            raise UnfitError(task, f"{name} {wrong}.", TypeError)
    for name, t in named:
        if t.device != x.device:
            raise UnfitError(task, f"{name} is on {t.device}, the parameter on {x.device}. {REBUILD}.")
    if g.shape != x.shape:
        raise UnfitError(
            task,
            f"its gradient has the shape {tuple(g.shape)}, the parameter {tuple(x.shape)}: it was resized after backward(). Set "
            "p.grad = None, or take the gradient anew.",
        )
    sliced = -1 if task.cut is None else len(range(x.numel())[task.cut])
    for name, t in buffers:
        if t.shape != x.shape and t.shape != (sliced,):
            raise UnfitError(
                task,
                f"{name} has the shape {tuple(t.shape)}, the parameter {tuple(x.shape)}: one was resized without the other. "
                f"{REBUILD}.",
            )
    for name, t in named:
        _check_memory(task, name, t, written=t is not g)
    if g.is_sparse:
        _check_indices(task, g)


def _wrong_kind(t: Any, *, may_be_sparse: bool) -> str:
    """The reason why no step can be taken with tensors of this kind, or ""."""
    if not isinstance(t, Tensor):
        return f"is of type {type(t).__name__}, and no tensor. {REBUILD}"
    if t.is_nested:
        return "is a nested tensor: train its values(), a plain tensor"
    if torch._C._functorch.is_functorch_wrapped_tensor(t) or torch._is_functional_tensor(t):
        return f"is a tensor of a functional transform (vmap, grad, functionalize), {NO_ELEMENTS}"
    if t.device.type == "meta":
        return f"is on the meta device, {NO_ELEMENTS}"
    if t.layout is not torch.strided and not (may_be_sparse and t.layout is torch.sparse_coo):
        return f"has the layout {t.layout}: train it as a strided tensor (to_dense())"
    if t.is_neg():  # the gradient's was resolved
        return "is stored with its sign reversed (a view of imag?): clone() it"
    return "" if t.is_floating_point() else f"has the dtype {t.dtype}, which is no real floating dtype. {REBUILD}"


def is_plain(t: Tensor) -> bool:
    """Whether the elements are in memory of the tensor's own: not those of a subclass that carries out operations itself."""
    return type(t) is Tensor or type(t).__torch_dispatch__ is Tensor.__torch_dispatch__


def is_fixed(task: TensorTask) -> bool:
    """Whether a comparison of addresses, sizes and strides can tell that the task's tensors are unchanged."""
    return not task.g.is_sparse and all(map(is_plain, (task.x, task.g, *task.buf.values())))


def span(t: Tensor) -> int:
    """Number of elements from the first of a strided tensor to behind its last."""
    if t.layout is not torch.strided or t.numel() == 0:
        return 0
    return 1 + sum(stride * (size - 1) for stride, size in zip(t.stride(), t.shape, strict=True))


def unwritable(t: Tensor) -> str:
    """The reason why a step cannot write a tensor (too little memory for its shape, or elements that share it), or ""."""
    if _shares_with_itself(t):
        return SHARED
    return lack if not (lack := lacking(t)) else f"{lack}. Step while the memory is there"


def _shares_with_itself(t: Tensor) -> bool:
    if not t.numel() or not is_plain(t) or t.layout is not torch.strided:
        return False
    end = 1
    for stride, size in sorted((stride, size) for stride, size in zip(t.stride(), t.shape, strict=True) if size > 1):
        if stride < end:
            return True
        end += stride * (size - 1)
    return False


def lacking(t: Tensor) -> str:
    """The reason why a tensor lacks the memory that its shape asks for, or ""."""
    if t.numel() == 0 or not is_plain(t) or t.layout is not torch.strided or t.device.type == "meta":
        return ""
    needed, there = (t.storage_offset() + span(t)) * t.itemsize, t.untyped_storage().nbytes()
    if needed <= there and t.data_ptr() != 0:
        return ""
    return f"needs {needed} bytes for the shape {tuple(t.shape)}, and its storage has {there}: it was freed or resized"


def _check_memory(task: TensorTask, name: str, t: Tensor, *, written: bool) -> None:
    if written and _shares_with_itself(t):
        raise UnfitError(task, f"{name} {SHARED}.")
    if lack := lacking(t):
        raise UnfitError(task, f"{name} {lack}. Step while the memory is there. {REBUILD}.")


def _check_indices(task: TensorTask, g: Tensor) -> None:
    """Of a sparse gradient; on a GPU only what the host knows."""
    indices, values = g._indices(), g._values()
    if lack := lacking(indices) or lacking(values):
        raise UnfitError(task, f"its sparse gradient {lack}. Step while the memory is there.")
    rows = g.shape[: g.sparse_dim()]
    right = values.shape == (indices.shape[1], *g.shape[g.sparse_dim() :]) and indices.shape[0] == len(rows)
    if right and indices.device.type == "cpu" and indices.numel():
        largest = torch.tensor(rows, device="cpu").unsqueeze(1)
        right = bool((indices >= 0).all()) and bool((indices < largest).all())
    if not right:
        raise UnfitError(
            task,
            f"its sparse gradient of shape {tuple(g.shape)} has indices or values that do not fit that shape: make it with "
            "torch.sparse_coo_tensor(..., check_invariants=True) to see where.",
        )


def check_apart(tasks: Iterable[TensorTask]) -> None:
    """Raise UnfitError when two of the parameters and buffers of a step share memory; tensors with gaps are not looked at."""
    ranges: list[tuple[object, int, int, str, TensorTask]] = []
    for task in tasks:
        for name, t in _written(task):
            if is_plain(t) and t.numel() and (t.is_contiguous() or _is_dense(t)):
                start = t.data_ptr()
                ranges.append((t.device, start, start + t.numel() * t.itemsize, name, task))
    ranges.sort(key=lambda r: (str(r[0]), r[1]))
    for before, after in itertools.pairwise(ranges):
        if before[0] == after[0] and after[1] < before[2]:
            task, other = after[4], before[4]
            whose = before[3] if other is task else f"the parameter of shape {tuple(other.x.shape)} or a buffer of it"
            raise UnfitError(
                task,
                f"{after[3]} shares memory with {whose}, and a step would write it twice. Give the optimizer a tied "
                "parameter once, as one object, and let clone() make copies.",
            )


def check_writable(tasks: Iterable[TensorTask]) -> None:
    """Raise UnfitError where x or a buffer of a task cannot be written. Only memory that torch did not allocate is looked up."""
    found = [
        (task, name, t)
        for task in tasks
        for name, t in _written(task)
        if t.device.type == "cpu" and is_plain(t) and t.numel() and not t.untyped_storage().resizable()
    ]
    runs = _read_only() if found else []
    for task, name, t in found:
        if _meets(t, runs):
            raise UnfitError(
                task,
                f'{name} lies in memory that is mapped read-only (np.memmap(mode="r")?): clone() it, or map it with mode="c".',
            )


def check_versions(task: TensorTask) -> None:
    """Raise UnfitError for what torch lets nobody write: a tensor made in inference mode."""
    for name, t in _written(task):
        if t.is_inference() and not torch.is_inference_mode_enabled():
            raise UnfitError(task, f"{name} was made in torch.inference_mode(), which makes it constant: clone() it.")


def _read_only() -> list[Run]:
    """The runs of memory that are mapped without the right to write, in order; none where the system does not tell."""
    try:
        with open(MAPS, encoding="ascii", errors="replace") as maps:
            words = [line.split(None, 2)[:2] for line in maps]
    except OSError:
        return []
    places = [place.split("-") for place, rights in words if "w" not in rights]
    return [(int(first, 16), int(end, 16)) for first, end in places]


def _meets(t: Tensor, runs: list[Run]) -> bool:
    start = t.data_ptr()
    end = start + t.untyped_storage().nbytes() - t.storage_offset() * t.itemsize
    before = bisect_right(runs, (start, end))
    return any(first < end and start < last for first, last in runs[max(0, before - 1) : before + 1])
