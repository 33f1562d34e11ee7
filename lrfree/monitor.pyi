"""The module dadapt_dist.monitor, for type checkers."""

from dadapt_dist.monitor import *
