"""The module dadapt_dist.checkpoint, for type checkers."""

from dadapt_dist.checkpoint import *
