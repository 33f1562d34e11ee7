"""Which learning-rate-free methods exist? One file each; this file only names them."""

from .base import Buffer, Method
from .cocob import COCOBMethod
from .dadapt_adagrad import DAdaptAdaGradMethod
from .dadapt_adam import DAdaptAdamMethod
from .dadapt_adan import DAdaptAdanMethod
from .dadapt_lion import DAdaptLionMethod
from .dadapt_sgd import DAdaptSGDMethod
from .dog import DoGMethod
from .prodigy import ProdigyMethod

METHODS: dict[str, type[Method]] = {
    cls.name: cls
    for cls in (
        ProdigyMethod,
        DAdaptAdamMethod,
        DAdaptSGDMethod,
        DAdaptAdaGradMethod,
        DAdaptAdanMethod,
        DAdaptLionMethod,
        DoGMethod,
        COCOBMethod,
    )
}

__all__ = ["METHODS", "Buffer", "Method"]
