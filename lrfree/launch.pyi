"""The module dadapt_dist.launch, for type checkers."""

from dadapt_dist.launch import *
