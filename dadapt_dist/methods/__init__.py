"""Learning-rate-free methods, one file each. A new file is found by itself; `register` adds a method of a user's."""

from .._moved_paths import OLD_NAMES as _OLD_NAMES
from .base import Buffer, Documentation, Method
from .directed import DirectedMethod
from .registry import METHODS, register

__path__.append(_OLD_NAMES)

__all__ = ["METHODS", "Buffer", "DirectedMethod", "Documentation", "Method", "register"]
