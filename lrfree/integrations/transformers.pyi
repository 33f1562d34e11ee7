"""The module dadapt_dist.integrations.transformers, for type checkers."""

from dadapt_dist.integrations.transformers import *
