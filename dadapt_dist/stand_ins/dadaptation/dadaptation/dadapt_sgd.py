"""dadaptation.dadapt_sgd, by its name in that package."""

from dadapt_dist.optimizers import DAdaptSGD

__all__ = ["DAdaptSGD"]
