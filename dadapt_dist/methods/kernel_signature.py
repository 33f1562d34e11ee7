"""What the compiled kernels need to know of a method."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class KernelSignature:
    """The arguments of a method's compiled kernels (cpu_c_step.c, triton_kernel.py), in order.

    Args:
        index: number of the method in the kernels.
        fields: buffers, those that the kernel never writes last.
        coefficients: keys of `Method.coefficients`; None there (no decay) is passed as 1.
        factors: what the raw sums of the kernel are multiplied by, in the order of the method's sums.
        statistic: the buffer that serves the estimate alone: without it the method is frozen, and it may be narrower.
        read_only: how many of `fields` the kernel never writes.
        sliced: whether the kernel knows `slice_p`.
    """

    index: int
    fields: tuple[str, ...]
    coefficients: tuple[str, ...]
    factors: Callable[[dict[str, Any]], tuple[Any, ...]]
    statistic: str
    read_only: int = 0
    sliced: bool = False
