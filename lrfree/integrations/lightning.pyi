"""The module dadapt_dist.integrations.lightning, for type checkers."""

from dadapt_dist.integrations.lightning import *
