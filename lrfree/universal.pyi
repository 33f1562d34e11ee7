"""The module dadapt_dist.universal, for type checkers."""

from dadapt_dist.universal import *
