"""Mechanic and TRAC around any torch optimizer: they learn its learning rate, the base takes the steps."""

from .engine.wrapped import Wrapped, mechanic, trac

Mechanic: type[Wrapped] = mechanic
TRAC: type[Wrapped] = trac

__all__ = ["TRAC", "Mechanic"]
