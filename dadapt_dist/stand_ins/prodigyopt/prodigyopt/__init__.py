"""The package prodigyopt as `dadapt-dist run --as prodigyopt` gives it: its class is that of dadapt_dist."""

from dadapt_dist.integrations.stand_ins import announce

from .prodigy import Prodigy

__all__ = ["Prodigy"]

announce(__name__, __all__)
