"""Refuse tensors that nobody may write.

torch takes arrays of numpy that are mapped read-only (`np.memmap(mode="r")`), and knows nothing of that: writing them ends the
process. Linux tells. What was made in inference mode torch refuses to write, in the middle of a step.
"""

from bisect import bisect_right
from collections.abc import Iterable

import torch
from torch import Tensor

from .memory_checks import UnfitError, is_plain
from .tensor_task import TensorTask

MAPS = "/proc/self/maps"
Run = tuple[int, int]  # first address, and the one behind the last


def check_writable(tasks: Iterable[TensorTask]) -> None:
    """Raise UnfitError where x or a buffer of a task cannot be written. Only memory that torch did not allocate is looked up."""
    found = [
        (task, name, t)
        for task in tasks
        for name, t in (("it", task.x), *((f"its buffer {name}", t) for name, t in task.buf.items()))
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
    for name, t in (("it", task.x), *((f"its buffer {name}", t) for name, t in task.buf.items())):
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
