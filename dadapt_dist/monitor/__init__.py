"""Values to log from a learning-rate-free run, and a crash-safe log file for them."""

from typing import TYPE_CHECKING, Any

from .._moved_paths import OLD_NAMES as _OLD_NAMES
from .jsonl import JsonlWriter, read_jsonl

if TYPE_CHECKING:
    from .values import record

__path__.append(_OLD_NAMES)

__all__ = ["JsonlWriter", "read_jsonl", "record"]


def __getattr__(name: str) -> Any:
    """Import `record` when it is asked for: reading a log needs no torch."""
    if name != "record":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from .values import record

    return record
