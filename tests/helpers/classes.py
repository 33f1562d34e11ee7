"""The optimizer classes that the tests run over: all that the registry of methods has.

A list of methods is one of these, so that a new method appears in it by itself: ALL, or those of them with something that a
test is about. CLASSES: those with released packages whose checkpoints can be converted. VARIANTS: further public classes,
which are a method with other defaults, by name.
"""

import os
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch._compile import _disable_dynamo

import dadapt_dist as dd
from dadapt_dist import optimizers
from dadapt_dist.checkpoint.from_released import RELEASED
from dadapt_dist.methods import METHODS, Method

from .oracles import ORACLES
from .oracles.base import LOSS

_usual_loss: list[float | None] = [LOSS]  # the last counts


@contextmanager
def no_usual_loss() -> Iterator[None]:
    """Let methods that use the loss go without where the test gives them none."""
    _usual_loss.append(None)
    try:
        yield
    finally:
        _usual_loss.pop()


def give_usual_loss(cls: type[dd.LearningRateFree]) -> None:
    """Let a class take LOSS for the loss of a step that is given none, as its oracle does.

    What is tested of every method (layouts, checkpoints, bad gradients) is then tested of these too; that losses are brought to
    them is what test_loss.py tests.
    """
    inherited = cls._take_step

    @_disable_dynamo
    def _take_step(self: Any, loss: Any = None, result: Any = None) -> None:
        if loss is None and result is None and self._loss is None:
            loss = _usual_loss[-1]
        inherited(self, loss, result)

    cls._take_step = _take_step  # type: ignore[method-assign]


WITH_LOSS = [name for name, method in METHODS.items() if method.wants_loss]
for _name in WITH_LOSS:
    give_usual_loss(optimizers.of_method(_name))
ALL: dict[str, type[dd.LearningRateFree]] = optimizers.classes()
CLASSES = {name: ALL[name] for name in RELEASED}
VARIANTS = {
    variant.name: getattr(optimizers, variant.name) for method in METHODS.values() for variant in method.variants
}
COMPILED = [name for name, method in METHODS.items() if not method.runs_base]  # kernels are made of any method
# Where one test takes many methods in one go: four that have little in common, or all of them under `make test-matrix`.
EVERY = bool(os.environ.get("TEST_EVERY_METHOD"))
IN_ONE_GO = [*ALL] if EVERY else ["prodigy", "dadapt_adan", "dog", "mechanic_adam"]
WITH_D = [name for name, method in METHODS.items() if "d" in method().scalars(method.options.defaults())]
WITH_RATE = [
    n for n, m in METHODS.items() if n in (*WITH_D, *WITH_LOSS, "kt") or m.chosen_lr
]  # effective_lr is a number
WITH_BEFORE = [name for name, method in METHODS.items() if method.before is not None]
ALWAYS_BEFORE = [name for name in WITH_BEFORE if METHODS[name].wants_before is Method.wants_before]
SLOW = ("dadapt_adagrad", "dual_averaging")  # d does not grow within the first steps
BY_DISTANCE = (
    "adagrad_pp",
    "adam_pp",
    "dog",
    "dowg",
)  # whose d is a way that the weights have gone, and cannot be set below it
RIDES = [name for name in ALWAYS_BEFORE if METHODS[name].polynomial_before]  # the norm to clip by rides in their reduce
BEFORE_D = [name for name in ALWAYS_BEFORE if name in WITH_D]  # where a test judges those sums by the d that they give
WITHOUT_SUMS = [name for name, m in METHODS.items() if m.start is m.before is m.after is None]
_buffers, _numbers = defaultdict[str, Any](lambda: torch.ones(1)), defaultdict[str, Any](lambda: 1.0)
D_MAY_FALL = [name for name in METHODS if ORACLES[name].d_may_fall]
SQUARES_NOTHING = [n for n, m in METHODS.items() if m().squared(torch.ones(1), _buffers, _buffers, _numbers) == ()]

# What lets more of a method take part than its defaults; the others train with weight decay where they have it.
PARTS: dict[str, dict[str, Any]] = {
    "prodigy": {"weight_decay": 0.01, "use_bias_correction": True},
    "dadapt_sgd": {"momentum": 0.9, "weight_decay": 0.01},
    "dadapt_adagrad": {"momentum": 0.5},
    "dadapt_adan": {},
    "dual_averaging": {"average": True, "weight_decay": 0.01},
    "momo": {"weight_decay": 0.01, "cap": 100.0},  # so large that a step takes a share of it
    "momo_adam": {"weight_decay": 0.01, "cap": 5.0},
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
    method = METHODS[method_of(name)]
    given = {option: d for option in ("d0", "reps_rel") if option in method.options.checks()}
    if "s_init" in method.options.checks():  # which the first S is proportional to
        of_one: Any = method().scalars(method.options.defaults() | {"s_init": 1.0})["d"]
        given["s_init"] = d / of_one
    return given


def estimate_of(optimizer: dd.LearningRateFree) -> float:
    """d, or what a method without one goes by."""
    name = next(name for name in ("d", "wealth", "share", "rate") if name in optimizer.param_groups[0])
    return float(optimizer.step_size._value("default", name))


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
