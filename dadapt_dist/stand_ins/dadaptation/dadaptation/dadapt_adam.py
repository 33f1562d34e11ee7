"""dadaptation.dadapt_adam, by its name in that package."""

from dadapt_dist.optimizers import DAdaptAdam

__all__ = ["DAdaptAdam"]
