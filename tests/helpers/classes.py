"""The optimizer classes that the tests of layouts, frameworks and kernels run over.

Those of the D-Adaptation family, whose d starts at the option d0. tests/unit/methods/test_conformance.py has all methods.
"""

import dadapt_dist as dd
from dadapt_dist import optimizers
from dadapt_dist.methods import METHODS

CLASSES: dict[str, type[dd.LearningRateFree]] = {
    name: cls for name, cls in optimizers.classes().items() if "d0" in METHODS[name].options.checks()
}
