"""Which elements of a parameter a rank holds, and how many ranks hold the same."""

from .attaching import attach
from .framework import FrameworkAdapter
from .registry import register, unregister
from .shard import LocalShard

__all__ = ["FrameworkAdapter", "LocalShard", "attach", "register", "unregister"]
