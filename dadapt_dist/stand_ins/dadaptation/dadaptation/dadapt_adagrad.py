"""dadaptation.dadapt_adagrad, by its name in that package."""

from dadapt_dist.optimizers import DAdaptAdaGrad

__all__ = ["DAdaptAdaGrad"]
