"""dadaptation.dadapt_adan, by its name in that package."""

from dadapt_dist.optimizers import DAdaptAdan

__all__ = ["DAdaptAdan"]
