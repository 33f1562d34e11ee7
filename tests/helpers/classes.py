"""The optimizer classes that the tests run over: ALL methods, or the CLASSES whose d starts at the option d0.

CLASSES, the D-Adaptation family, is what the tests of compiled kernels, layouts and frameworks take.
"""

from typing import Any

import dadapt_dist as dd
from dadapt_dist import optimizers
from dadapt_dist.methods import METHODS

ALL: dict[str, type[dd.LearningRateFree]] = optimizers.classes()
CLASSES = {name: cls for name, cls in ALL.items() if "d0" in METHODS[name].options.checks()}
WITH_D = [name for name, method in METHODS.items() if "d" in method().scalars(method.options.defaults())]


def first_d(name: str, d: float) -> dict[str, Any]:
    """The option with which d starts at d, or near it: DoG's is a share of 1 + ‖x0‖. None for a method without d."""
    known = METHODS[name].options.checks()
    return {option: d for option in ("d0", "reps_rel") if option in known}
