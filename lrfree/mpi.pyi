"""The module dadapt_dist.mpi, for type checkers."""

from dadapt_dist.mpi import *
