"""dadaptation.dadapt_lion, by its name in that package."""

from dadapt_dist.optimizers import DAdaptLion

__all__ = ["DAdaptLion"]
