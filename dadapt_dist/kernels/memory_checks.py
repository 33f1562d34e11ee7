"""How do tensors lie in memory, and may a kernel walk through them side by side?

A kernel gets addresses: nothing below it can see that a parameter was resized under its buffers, that its storage was freed,
or that a tensor has no elements of its own. All that is seen here: in full when a TensorTask is new or something has changed, and
otherwise by one comparison.
"""

import itertools
import operator
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from .tensor_task import TensorTask

REBUILD = "Rebuild the state of a parameter that was changed: optimizer.state.pop(p)"


class UnfitError(ValueError):
    """A tensor of a step cannot be used as it is. task: the one whose it is."""

    def __init__(self, task: TensorTask, said: str, kind: type[Exception] = ValueError) -> None:
        super().__init__(said)
        self.task, self.kind = task, kind


def is_dense_alike(tensors: Sequence[Tensor]) -> bool:
    """Do equal places in memory hold equal elements? All contiguous, or all dense in the same order (channels_last)."""
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


# ---------------------------------------------------------------- what stays the same


def _compared(tensors: Sequence[Tensor]) -> Callable[..., bool]:
    """A function of as many tensors: are they of the types, dtypes, devices, sizes and strides that these are now?"""
    try:  # what torch.compile guards its code with: one call for all, at the price of one attribute of each
        from torch._C._dynamo.guards import TensorGuards

        sizes: list[Any] = [[*t.shape] for t in tensors]
        strides: list[Any] = [[*t.stride()] for t in tensors]
        check: Callable[..., bool] = TensorGuards(
            *tensors, dynamic_dims_sizes=sizes, dynamic_dims_strides=strides
        ).check
        if check(*tensors):
            return check
    except (ImportError, AttributeError, TypeError, RuntimeError):  # it is no public name: another torch may lack it
        pass
    before = [*map(_looks, tensors)]
    return lambda *now: [*map(_looks, now)] == before


def _looks(t: Tensor) -> tuple[object, ...]:
    return type(t), t.dtype, t.device, t.layout, t.shape, t.stride(), t.is_neg()


class Seen:
    """What the tensors of a TensorTask were when `check` saw them.

    Addresses alone do not tell: a storage that was freed may be allocated anew, smaller, in the same place.
    """

    __slots__ = ("addresses", "bytes", "found", "needed", "same", "scale", "sizes", "tensors", "width")

    def __init__(self, task: TensorTask) -> None:
        self.tensors = [task.x, *task.buf.values()]
        self.addresses = [t.data_ptr for t in self.tensors]
        self.found = [address() for address in self.addresses]
        self.sizes = [_size_of(t) for t in self.tensors]
        self.bytes = [size() for size in self.sizes]
        self.needed, self.width = _span(task.g) * task.g.itemsize, task.g.itemsize
        self.same = _compared([task.g, *self.tensors])
        self.scale = None if task.scale is None else task.scale.device

    def still(self, task: TensorTask) -> bool:
        """Are they where and what they were? The gradient may be another one that looks the same."""
        if task.scale is not None and task.scale.device != self.scale:
            return False
        if [address() for address in self.addresses] != self.found or [size() for size in self.sizes] != self.bytes:
            return False
        return self.same(task.g, *self.tensors) and _room(task.g, self.width) >= self.needed


class Crowd:
    """What `Seen` is of one TensorTask, of all tasks of a group that come together step after step: one comparison for all."""

    def __init__(self, tasks: Sequence[TensorTask]) -> None:
        self.kernel, self.seen = tasks[0].kernel, [task.memo for task in tasks]
        seen = [memo for memo in self.seen if isinstance(memo, Seen)]
        self.tensors = [t for one in seen for t in one.tensors]
        self.addresses = [address for one in seen for address in one.addresses]
        self.sizes = [size for one in seen for size in one.sizes]
        self.found, self.bytes = [n for one in seen for n in one.found], [n for one in seen for n in one.bytes]
        self.needed, self.widths = [one.needed for one in seen], [one.width for one in seen]
        self.same, self.scale = _compared([*[task.g for task in tasks], *self.tensors]), seen[0].scale

    @staticmethod
    def of(tasks: Sequence[TensorTask]) -> "Crowd | None":
        """None for tasks of which some are unseen, or are not all for one kernel."""
        alike = bool(tasks) and all(isinstance(task.memo, Seen) and task.kernel is tasks[0].kernel for task in tasks)
        return Crowd(tasks) if alike else None

    def still(self, tasks: Sequence[TensorTask]) -> bool:
        """As `Seen.still`, for all of them. All have one scale."""
        if [task.memo for task in tasks] != self.seen:
            return False
        if tasks[0].scale is not None and tasks[0].scale.device != self.scale:
            return False
        if [address() for address in self.addresses] != self.found or [size() for size in self.sizes] != self.bytes:
            return False
        gradients = [task.g for task in tasks]
        if not self.same(*gradients, *self.tensors):
            return False
        return all(map(operator.ge, map(_room, gradients, self.widths), self.needed))


def _room(g: Tensor, width: int) -> int:
    """Bytes from a gradient's first element, of that width, to the end of its storage."""
    return g.untyped_storage().nbytes() - width * int(g.storage_offset())


def _size_of(t: Tensor) -> Callable[[], int]:
    """What gives the bytes of the storage. Memory of a GPU, that others may want, is not kept alive for that."""
    return t.untyped_storage().nbytes if t.device.type == "cpu" else lambda: t.untyped_storage().nbytes()


# ---------------------------------------------------------------- one look at everything


def check(task: TensorTask) -> None:
    """Raise UnfitError unless x, g and the buffers of a TensorTask belong together and have the memory that they say they have."""
    x, g = task.x, task.g
    named = [("it", x), ("its gradient", g), *((f"its buffer {name}", t) for name, t in task.buf.items())]
    for name, t in named:
        _check_kind(task, name, t)
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
    for name, t in named[2:]:
        if t.shape != x.shape and t.shape != (sliced,):
            raise UnfitError(
                task,
                f"{name} has the shape {tuple(t.shape)}, the parameter {tuple(x.shape)}: one was resized without the other. "
                f"{REBUILD}.",
            )
    for name, t in named:
        if not t.is_sparse:
            _check_memory(task, name, t, written=t is not g)
    if g.is_sparse:
        _check_indices(task, g)


def _check_kind(task: TensorTask, name: str, t: Tensor) -> None:
    if not isinstance(t, Tensor):
        raise UnfitError(task, f"{name} is of type {type(t).__name__}, and no tensor. {REBUILD}.", TypeError)
    if t.is_nested:
        raise UnfitError(task, f"{name} is a nested tensor: train its values(), a plain tensor.", TypeError)
    wrapped = torch._C._functorch.is_functorch_wrapped_tensor(t) or torch._is_functional_tensor(t)
    layouts = (torch.strided, torch.sparse_coo) if t is task.g else (torch.strided,)
    if t.device.type == "meta" or wrapped:
        what = (
            "is a tensor of a functional transform (vmap, grad, functionalize)" if wrapped else "is on the meta device"
        )
        raise UnfitError(task, f"{name} {what}, and has no elements to train. Step with ordinary tensors.", TypeError)
    if t.layout not in layouts:
        raise UnfitError(
            task, f"{name} has the layout {t.layout}: train it as a strided tensor (to_dense()).", TypeError
        )
    if t.is_neg():  # the gradient's was resolved
        raise UnfitError(task, f"{name} is stored with its sign reversed (a view of imag?): clone() it.", TypeError)
    if not t.is_floating_point():
        raise UnfitError(
            task, f"{name} has the dtype {t.dtype}, which is no real floating dtype. {REBUILD}.", TypeError
        )


def is_plain(t: Tensor) -> bool:
    """Are its elements in memory of its own? Not those of a subclass that carries out operations itself."""
    return type(t) is Tensor or type(t).__torch_dispatch__ is Tensor.__torch_dispatch__


def _span(t: Tensor) -> int:
    """From the first element of a strided tensor to behind its last."""
    if t.layout is not torch.strided or t.numel() == 0:
        return 0
    return 1 + sum(stride * (size - 1) for stride, size in zip(t.stride(), t.shape, strict=True))


def unwritable(t: Tensor) -> str:
    """Why a step cannot write a tensor: it has not the memory that its shape asks for, or has some twice. "" when it can."""
    if t.numel() and is_plain(t) and t.layout is torch.strided and _shares_with_itself(t):
        return "has elements that share memory (expand()?): clone() it"
    return lack if not (lack := lacking(t)) else f"{lack}. Step while the memory is there"


def _shares_with_itself(t: Tensor) -> bool:
    end = 1
    for stride, size in sorted((stride, size) for stride, size in zip(t.stride(), t.shape, strict=True) if size > 1):
        if stride < end:
            return True
        end += stride * (size - 1)
    return False


def lacking(t: Tensor) -> str:
    """Why a tensor has not the memory that its shape asks for; "" when it has."""
    if t.numel() == 0 or not is_plain(t) or t.layout is not torch.strided or t.device.type == "meta":
        return ""
    needed, there = (t.storage_offset() + _span(t)) * t.itemsize, t.untyped_storage().nbytes()
    if needed <= there and t.data_ptr() != 0:
        return ""
    return f"needs {needed} bytes for the shape {tuple(t.shape)}, and its storage has {there}: it was freed or resized"


def _check_memory(task: TensorTask, name: str, t: Tensor, *, written: bool) -> None:
    if t.numel() == 0 or not is_plain(t):
        return
    if written and _shares_with_itself(t):
        raise UnfitError(task, f"{name} has elements that share memory (expand()?): clone() it.")
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
        largest = torch.tensor(rows).unsqueeze(1)
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
        for name, t in (("it", task.x), *((f"its buffer {name}", t) for name, t in task.buf.items())):
            if is_plain(t) and t.numel() and (t.is_contiguous() or _is_dense(t)):
                start = t.data_ptr()
                ranges.append((t.device, start, start + t.numel() * t.itemsize, name, task))
    ranges.sort(key=_place)
    for before, after in itertools.pairwise(ranges):
        if before[0] == after[0] and after[1] < before[2]:
            task, other = after[4], before[4]
            whose = before[3] if other is task else f"the parameter of shape {tuple(other.x.shape)} or a buffer of it"
            raise UnfitError(
                task,
                f"{after[3]} shares memory with {whose}, and a step would write it twice. Give the optimizer a tied "
                "parameter once, as one object, and let clone() make copies.",
            )


def _place(r: tuple[Any, ...]) -> tuple[str, int]:
    return str(r[0]), r[1]
