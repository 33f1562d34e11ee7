"""Tuners: rules that learn how far to go along the sum of a direction's updates. One file each."""

from .mechanic import MechanicRule
from .scaled_sum import ScaledSum
from .trac import TRACRule

__all__ = ["MechanicRule", "ScaledSum", "TRACRule"]
