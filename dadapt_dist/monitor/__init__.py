"""What is logged of a learning-rate-free run, and how is it kept and drawn?"""

from .jsonl import JsonlWriter, read_jsonl
from .record import record

__all__ = ["JsonlWriter", "read_jsonl", "record"]
