"""The optimizer classes that the tests run over: all that the registry of methods has.

A list of methods is one of these, so that a new method appears in it by itself: ALL, or those of them with something that a
test is about. CLASSES: those whose d starts at the option d0, the D-Adaptation family with released packages.
"""

from collections import defaultdict
from typing import Any

import torch

import dadapt_dist as dd
from dadapt_dist import optimizers
from dadapt_dist.methods import METHODS, Method

ALL: dict[str, type[dd.LearningRateFree]] = optimizers.classes()
CLASSES = {name: cls for name, cls in ALL.items() if "d0" in METHODS[name].options.checks()}
COMPILED = [name for name, method in METHODS.items() if not method.runs_base]  # the C step is made of any method
IN_TRITON = [name for name, method in METHODS.items() if method.signature is not None]
WITH_D = [name for name, method in METHODS.items() if "d" in method().scalars(method.options.defaults())]
WITH_BEFORE = [name for name, method in METHODS.items() if method.before is not None]
ALWAYS_BEFORE = [name for name in WITH_BEFORE if METHODS[name].wants_before is Method.wants_before]
WITHOUT_SUMS = [name for name, m in METHODS.items() if m.start is m.before is m.after is None]
_buffers, _numbers = defaultdict[str, Any](lambda: torch.ones(1)), defaultdict[str, Any](lambda: 1.0)
SQUARES_NOTHING = [n for n, m in METHODS.items() if m().squared(torch.ones(1), _buffers, _buffers, _numbers) == ()]

# What lets more of a method take part than its defaults; the others train with weight decay where they have it.
PARTS: dict[str, dict[str, Any]] = {
    "prodigy": {"weight_decay": 0.01, "use_bias_correction": True},
    "dadapt_sgd": {"momentum": 0.9, "weight_decay": 0.01},
    "dadapt_adagrad": {"momentum": 0.5},
    "dadapt_adan": {},
}


# Settings of a method that are compared like a method of their own, under "<method> <setting>". The cap holds back the steps
# of some tensors of every test's model, and the decay ends before the run does.
SETTINGS: dict[str, dict[str, Any]] = {
    "prodigy auto": {"recipe": "auto", "total_steps": 9, "rms_cap": 0.02, "weight_decay": 0.01},
    "prodigy probe": {"recipe": "auto", "total_steps": 900, "d0": 1e-6, "weight_decay": 0.01},
}


def method_of(name: str) -> str:
    """The method of a name of ALL or of SETTINGS."""
    return name.split()[0]


def first_d(name: str, d: float) -> dict[str, Any]:
    """The option with which d starts at d, or near it: DoG's is a share of 1 + ‖x0‖. None for a method without d."""
    known = METHODS[method_of(name)].options.checks()
    return {option: d for option in ("d0", "reps_rel") if option in known}


def parts(name: str, d: float = 1e-3) -> dict[str, Any]:
    """Options under which all parts of a method take part, and d starts at d or near it."""
    decays = "weight_decay" in METHODS[method_of(name)].options.checks()
    own = SETTINGS.get(name) or PARTS.get(name, {"weight_decay": 0.01} if decays else {})
    return {**first_d(name, d), **own}


def make(name: str, params: Any, d: float = 1e-3, **options: Any) -> dd.LearningRateFree:
    """An optimizer whose d starts at d, or near it."""
    given = {**first_d(name, d), **SETTINGS.get(name, {}), **options}
    made: dd.LearningRateFree = ALL[method_of(name)](params, **given)
    return made
