"""Learning-rate-free optimizers that stay correct, and cost nothing extra, when training is sharded."""

from . import entry
from .api import DAdaptAdaGrad, DAdaptAdam, DAdaptAdan, DAdaptLion, DAdaptSGD, Prodigy
from .layout import PlacementError
from .monitor.log_values import base_optimizer, log_values
from .optimizer import LearningRateFree
from .step_size import StepSize
from .window import NonFiniteError

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

entry.register()
