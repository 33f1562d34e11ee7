"""Learning-rate-free optimizers that stay correct, and cost nothing extra, when training is sharded."""

from . import optimizers
from .engine.optimizer import LearningRateFree
from .engine.step_size import StepSize
from .errors import NonFiniteError, PlacementError
from .integrations.deepspeed import registration
from .monitor.log_values import base_optimizer, log_values
from .optimizers import *  # noqa: F403 - the classes of all methods

__version__ = "0.1.0"

__all__ = [
    "LearningRateFree",
    "NonFiniteError",
    "PlacementError",
    "StepSize",
    "__version__",
    "base_optimizer",
    "log_values",
]
__all__ += optimizers.__all__

registration.register()
