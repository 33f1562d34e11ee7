"""The order of buffers and coefficients in which the compiled kernels take a method. One without a signature runs eagerly."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..methods.base import Coefficients, Method


@dataclass(frozen=True)
class Spec:
    """What a compiled kernel needs to know of a method.

    index: number of the method in cpu_c_step.c. fields: buffers in the kernel's order, those that it never writes last.
    coefficients: keys of `Method.coefficients`, in order; where the value is None (no decay) kernels take 1. factors: what
    the raw sums of the kernel are multiplied by, in the order of `Method.sums`. read_only: how many fields it never writes.
    sliced: whether the kernel knows `slice_p`. statistic: the buffer without which d is frozen, and the one that slices cut.
    """

    index: int
    fields: tuple[str, ...]
    coefficients: tuple[str, ...]
    factors: Callable[[Coefficients], tuple[Any, ...]]
    read_only: int = 0
    sliced: bool = False
    statistic: str = "s"


SPECS: dict[str, Spec] = {
    "prodigy": Spec(
        0,
        ("exp_avg", "exp_avg_sq", "s", "p0"),
        ("b1", "to_m", "b2", "to_v", "b3", "to_s", "keep", "step", "eps"),
        lambda c: (c["inner"], c["r"]),
        read_only=1,
        sliced=True,
    ),
    "dadapt_adam": Spec(
        1,
        ("exp_avg", "exp_avg_sq", "s"),
        ("b1", "to_m", "b2", "one_minus_b2", "b3", "to_s", "keep", "eps"),
        lambda c: (c["inner"], c["r"]),
    ),
    "dadapt_sgd": Spec(
        2,
        ("s", "x0"),
        ("gamma", "r", "pull"),
        lambda c: (c["gamma"] * c["r"], c["r"]),
        read_only=1,
    ),
    "dadapt_adagrad": Spec(
        3,
        ("alphak", "s", "x0"),
        ("gamma", "r", "eps", "pull"),
        lambda c: (c["gsq"], c["r"], c["r"]),
        read_only=1,
    ),
    "dadapt_adan": Spec(
        4,
        ("exp_avg", "exp_avg_diff", "exp_avg_sq", "s", "pre_grad"),
        ("b1", "to_m", "b2", "to_n", "b3", "one_minus_b3", "average", "to_s", "keep", "shrink", "eps"),
        lambda c: (c["gsq"], c["r"], c["r"]),
    ),
    "dadapt_lion": Spec(
        5,
        ("exp_avg", "s"),
        ("b1", "one_minus_b1", "b2", "to_m", "average", "to_s", "keep", "step"),
        lambda c: (c["step"], c["r"]),
    ),
}


def signature_of(method: Method) -> Spec | None:
    """The signature of a method; None where it has none, and runs as plain torch operations."""
    return SPECS.get(method.name)
