"""How do tensors lie in memory, and may a kernel walk through them side by side?"""

from collections.abc import Sequence

from torch import Tensor


def is_dense_alike(tensors: Sequence[Tensor]) -> bool:
    """Do equal places in memory hold equal elements? All contiguous, or all dense in the same order (channels_last)."""
    if all(t.is_contiguous() for t in tensors):
        return True
    first = tensors[0]
    return all(t.stride() == first.stride() for t in tensors) and _is_dense(first)


def _is_dense(t: Tensor) -> bool:
    expected = 1
    for stride, size in sorted((stride, size) for stride, size in zip(t.stride(), t.shape, strict=True) if size != 1):
        if stride != expected:
            return False
        expected *= size
    return True
