"""Learning-rate-free optimizers that stay correct, and cost nothing extra, when training is sharded."""

from . import _moved_paths
from .engine.optimizer import LearningRateFree
from .engine.step_size import StepSize
from .errors import NonFiniteError, PlacementError
from .integrations.deepspeed import registration
from .monitor.log_values import base_optimizer, log_values
from .optimizers import DAdaptAdaGrad, DAdaptAdam, DAdaptAdan, DAdaptLion, DAdaptSGD, Prodigy

__version__ = "0.1.0"

__all__ = [
    "DAdaptAdaGrad",
    "DAdaptAdam",
    "DAdaptAdan",
    "DAdaptLion",
    "DAdaptSGD",
    "LearningRateFree",
    "NonFiniteError",
    "PlacementError",
    "Prodigy",
    "StepSize",
    "__version__",
    "base_optimizer",
    "log_values",
]

_moved_paths.install()
registration.register()
