"""The module dadapt_dist.optimizers, for type checkers."""

from dadapt_dist.optimizers import *
