"""The arguments of the compiled kernels, by method. A method without them runs as plain torch operations."""

from ..methods.base import KernelSignature, Method


def signature_of(method: Method) -> KernelSignature | None:
    """The signature that a method's class declares itself; None where there is none, and for one that is inherited.

    A class derived from a method may have another update than the kernels.
    """
    found: KernelSignature | None = vars(type(method)).get("signature")
    return found
