"""Which elements of a parameter a rank holds, and how many ranks hold the same."""

from .framework import FrameworkAdapter
from .registry import attach, register, unregister
from .shard import LocalShard

__all__ = ["FrameworkAdapter", "LocalShard", "attach", "register", "unregister"]
