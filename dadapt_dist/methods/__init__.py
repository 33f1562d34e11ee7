"""Learning-rate-free methods, one file each. A new file is found by itself; `register` adds a method of a user's."""

from .base import Buffer, Documentation, KernelSignature, Method
from .registry import METHODS, register

__all__ = ["METHODS", "Buffer", "Documentation", "KernelSignature", "Method", "register"]
