"""Values to log from a learning-rate-free run, and a crash-safe log file for them."""

from .jsonl import JsonlWriter, read_jsonl
from .record import record

__all__ = ["JsonlWriter", "read_jsonl", "record"]
