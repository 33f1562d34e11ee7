"""prodigyopt.prodigy, by its name in that package."""

from dadapt_dist.optimizers import Prodigy

__all__ = ["Prodigy"]
