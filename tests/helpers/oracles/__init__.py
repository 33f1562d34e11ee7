"""Reference numbers for each method: plain float64 transcriptions that share no code with the library."""

from .base import Oracle
from .dadapt_adagrad import DAdaptAdaGradOracle
from .dadapt_adam import DAdaptAdamOracle
from .dadapt_adan import DAdaptAdanOracle
from .dadapt_lion import DAdaptLionOracle
from .dadapt_sgd import DAdaptSGDOracle
from .prodigy import ProdigyOracle

ORACLES: dict[str, type[Oracle]] = {
    "prodigy": ProdigyOracle,
    "dadapt_adam": DAdaptAdamOracle,
    "dadapt_sgd": DAdaptSGDOracle,
    "dadapt_adagrad": DAdaptAdaGradOracle,
    "dadapt_adan": DAdaptAdanOracle,
    "dadapt_lion": DAdaptLionOracle,
}

__all__ = ["ORACLES", "Oracle"]
