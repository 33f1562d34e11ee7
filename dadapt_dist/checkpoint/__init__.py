"""Convert checkpoints of prodigyopt and dadaptation: `convert`."""

from .from_released import convert

__all__ = ["convert"]
