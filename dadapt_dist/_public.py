"""Public names of the package, imported by its __init__; apart from it so that the command line starts without torch."""

from . import optimizers
from .engine.optimizer import LearningRateFree
from .engine.step_size import StepSize
from .errors import NonFiniteError, PlacementError
from .integrations.builtin import register_builtin
from .monitor.values import base_optimizer, log_values
from .optimizers import *  # noqa: F403 - the classes of all methods
from .sharding.registry import attach
from .wrappers import TRAC, Mechanic

__all__ = [
    "TRAC",
    "LearningRateFree",
    "Mechanic",
    "NonFiniteError",
    "PlacementError",
    "StepSize",
    "attach",
    "base_optimizer",
    "log_values",
]
__all__ += optimizers.__all__

register_builtin()
