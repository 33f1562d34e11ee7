"""The module dadapt_dist.schedules, for type checkers."""

from dadapt_dist.schedules import *
