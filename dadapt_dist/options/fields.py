"""Fields of a method's options: each carries its default, its check and its line of documentation.

The options of a method are a frozen dataclass whose fields are made here:

    @dataclass(frozen=True)
    class DoGOptions(MethodOptions):
        lr: float = LR(1.0)
        reps_rel: float = option(1e-6, number, is_positive, "a number > 0", "use the default, {usual}", "first distance")
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from .plain_values import NOTHING, flag, integer, number, numbers


@dataclass(frozen=True)
class Check:
    """What an option can be.

    Args:
        read: returns the value as plain Python, NOTHING when it cannot be read.
        right: whether the value that was read is in range.
        allowed: the range in words.
        cure: the last sentence of the error; {usual} stands for the default.
        usual: the default.
        doc: one line of documentation, without a full stop.
    """

    read: Callable[[Any], Any]
    right: Callable[[Any], bool]
    allowed: str
    cure: str
    usual: Any
    doc: str


def option(
    default: Any, read: Callable[[Any], Any], right: Callable[[Any], bool], allowed: str, cure: str, doc: str
) -> Any:
    """A field of an options dataclass that may be set per parameter group. The arguments are those of `Check`."""
    return field(default=default, metadata={"check": Check(read, right, allowed, cure, default, doc)})


def accepted(default: Any, doc: str) -> Any:
    """A field that the constructor takes for compatibility, and that no group holds."""
    return field(default=default, metadata={"doc": doc})


def rate(value: Any) -> Any:
    """A number, or a CPU tensor that its owner goes on changing; reading one never waits for a device."""
    if not isinstance(value, Tensor):
        return number(value)
    if value.device.type != "cpu" or value.layout is not torch.strided or number(value) is NOTHING:
        return NOTHING
    return value.detach().reshape(())  # the same memory


def optional(value: Any) -> Any:
    """None, or a number."""
    return None if value is None else number(value)


def is_nonnegative(value: Any) -> bool:
    """Return whether 0 <= value < inf."""
    return 0 <= float(value) < math.inf


def is_positive(value: float) -> bool:
    """Return whether 0 < value < inf."""
    return 0 < value < math.inf


def is_fraction(value: float) -> bool:
    """Return whether 0 <= value < 1."""
    return 0 <= value < 1


def is_anything(_: Any) -> bool:
    """Return True."""
    return True


def BETAS(default: tuple[float, ...], doc: str) -> Any:
    """Averaging constants, as many as the default has."""
    n = len(default)
    return option(
        default,
        numbers,
        lambda value: len(value) == n and all(map(is_fraction, value)),
        f"{n} numbers in [0, 1)",
        "use the default, {usual}",
        doc,
    )


def switch(default: bool, doc: str) -> Any:
    """True or False."""
    return option(default, flag, is_anything, "True or False", "pass a bool", doc)


# Options that several methods share; each method gives its own default.
LR = partial(
    option,
    read=rate,
    right=is_nonnegative,
    allowed="a number >= 0",
    cure="leave lr=1.0: it multiplies the step size that d gives, and a schedule scales it",
    doc="multiplies d. Leave it at 1.0 and let a schedule shape it; a group with lr 0 does not move",
)
EPS = partial(
    option,
    read=number,
    right=is_positive,
    allowed="a number > 0",
    cure="use the default, {usual}",
    doc="added to the root in the denominator, for numerical stability",
)
WEIGHT_DECAY = partial(
    option,
    read=number,
    right=is_nonnegative,
    allowed="a number >= 0",
    cure="the default is {usual}, and 0 turns decay off",
)
MOMENTUM = partial(
    option,
    read=number,
    right=is_fraction,
    allowed="a number in [0, 1)",
    cure="0 turns momentum off",
    doc="weight of the last iterate in the average that is the new one",
)
D0 = partial(
    option,
    read=number,
    right=is_positive,
    allowed="a number > 0",
    cure="use the default, {usual}: d grows from there by itself",
    doc="first d; it only has to be smaller than the d to be found",
)
GROWTH_RATE = partial(
    option,
    read=number,
    right=lambda value: value >= 1,
    allowed="a number >= 1, or inf",
    cure="inf sets no bound; 1.02 is a slow growth",
    doc="bound on the growth of d per step; inf sets none",
)
LOG_EVERY = partial(
    option,
    read=integer,
    right=lambda value: value >= 0,
    allowed="an integer >= 0",
    cure="0 logs nothing",
    doc="log d every so many steps through `logging`; 0 never",
)
FSDP_IN_USE = partial(accepted, doc="accepted for compatibility and not needed: sharding is read from the parameters")
