"""The package dadaptation as `dadapt-dist run --as dadaptation` gives it: its classes are those of dadapt_dist."""

from dadapt_dist.integrations.stand_ins import announce

from .dadapt_adagrad import DAdaptAdaGrad
from .dadapt_adam import DAdaptAdam
from .dadapt_adan import DAdaptAdan
from .dadapt_lion import DAdaptLion
from .dadapt_sgd import DAdaptSGD

__all__ = ["DAdaptAdaGrad", "DAdaptAdam", "DAdaptAdan", "DAdaptLion", "DAdaptSGD"]

announce(__name__, __all__)
