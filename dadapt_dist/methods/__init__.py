"""Learning-rate-free methods, one file each. A new file is found by itself; `register` adds a method of a user's."""

from .base import Buffer, Method
from .directed import DirectedMethod
from .documentation import Documentation
from .kernel_signature import KernelSignature
from .registry import METHODS, register

__all__ = ["METHODS", "Buffer", "DirectedMethod", "Documentation", "KernelSignature", "Method", "register"]
