"""Learning-rate-free optimizers that stay correct, and cost nothing extra, when training is sharded."""

from .engine.optimizer import LearningRateFree
from .engine.step_size import StepSize
from .errors import NonFiniteError, PlacementError
from .integrations.deepspeed import registration
from .monitor.log_values import base_optimizer, log_values
from .optimizers import COCOB, DAdaptAdaGrad, DAdaptAdam, DAdaptAdan, DAdaptLion, DAdaptSGD, DoG, Prodigy

__version__ = "0.1.0"

__all__ = [
    "COCOB",
    "DAdaptAdaGrad",
    "DAdaptAdam",
    "DAdaptAdan",
    "DAdaptLion",
    "DAdaptSGD",
    "DoG",
    "LearningRateFree",
    "NonFiniteError",
    "PlacementError",
    "Prodigy",
    "StepSize",
    "__version__",
    "base_optimizer",
    "log_values",
]

registration.register()
