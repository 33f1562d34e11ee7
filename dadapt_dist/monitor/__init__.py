"""Values to log from a learning-rate-free run, and a crash-safe log file for them."""

from .._moved_paths import OLD_NAMES as _OLD_NAMES
from .jsonl import JsonlWriter, read_jsonl
from .values import record

__path__.append(_OLD_NAMES)

__all__ = ["JsonlWriter", "read_jsonl", "record"]
