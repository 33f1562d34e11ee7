"""The optimizer class of each method of the package."""

import dadapt_dist as dd
from dadapt_dist import optimizers

CLASSES: dict[str, type[dd.LearningRateFree]] = optimizers.classes()
