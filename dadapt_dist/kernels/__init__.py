"""Kernels: how a step runs over the local tensors of a rank."""

from .._moved_paths import OLD_NAMES as _OLD_NAMES
from . import cpu_c, eager, triton_launch
from .dispatch import KERNELS, Backend, Launch, assign, check_available, check_together, launches, rank_fingerprint
from .memory_checks import UnfitError
from .tensor_task import PerTensor, TensorTask

__path__.append(_OLD_NAMES)

__all__ = [
    "KERNELS",
    "Backend",
    "Launch",
    "PerTensor",
    "TensorTask",
    "UnfitError",
    "assign",
    "check_available",
    "check_together",
    "cpu_c",
    "eager",
    "launches",
    "rank_fingerprint",
    "triton_launch",
]
