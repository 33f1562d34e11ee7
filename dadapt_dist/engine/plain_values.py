"""Scalars of an estimate as plain python: numbers, and tuples of them for vectors."""

from typing import Any


def plain_value(value: Any) -> Any:
    """A float; a tuple of floats for a vector."""
    return tuple(value) if isinstance(value, list) else float(value)


def differ(now: Any, before: Any) -> bool:
    """Return whether these numbers, or lists of them, are others. NaN is the same as NaN."""
    if isinstance(now, list):
        return any(map(differ, now, before))
    return bool(now != before and (now == now or before == before))
