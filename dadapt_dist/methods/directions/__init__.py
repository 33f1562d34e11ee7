"""Directions: what turns a gradient into the update that a method scales. One file each."""

from .adam import Adam
from .base import Direction
from .lion import Lion
from .sgd import SGD
from .torch_optimizer import OfOptimizer, TorchDirection

__all__ = ["SGD", "Adam", "Direction", "Lion", "OfOptimizer", "TorchDirection"]
