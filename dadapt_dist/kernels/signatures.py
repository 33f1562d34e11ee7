"""Arguments of the compiled kernels, by method. A method without them runs as plain torch operations."""

from typing import Any

from ..methods import METHODS
from ..methods.base import Coefficients
from ..methods.kernel_signature import KernelSignature as Spec

SPECS: dict[str, Spec] = {name: method.signature for name, method in METHODS.items() if method.signature is not None}

__all__ = ["SPECS", "Spec", "ordered"]


def ordered(spec: Spec, c: Coefficients) -> list[Any]:
    """The coefficients in the kernel's order; a decay that the group has not got multiplies by 1."""
    return [1.0 if c[name] is None else c[name] for name in spec.coefficients]
