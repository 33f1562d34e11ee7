"""The module dadapt_dist.wrappers, for type checkers."""

from dadapt_dist.wrappers import *
