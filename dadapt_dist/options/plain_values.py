"""Read numbers, flags and sequences of any class (numpy, torch, config types) as plain Python values, or NOTHING.

Configs and schedulers hand over numpy scalars, tensors of one element, fractions and lists of their own. What they can be
read as is what counts; what is kept is plain, so that a checkpoint loads with weights_only=True.
"""

import operator
from collections.abc import Mapping, Set
from typing import Any

from torch import Tensor

NOTHING: Any = object()  # the value is no such thing


def number(value: Any) -> float:
    """Anything that float() takes, but for truth values and text."""
    found = _scalar(value)
    if type(found) in (float, int):
        return found if type(found) is float else _converted(float, found)
    if isinstance(found, (bool, str, bytes)) or not hasattr(type(found), "__float__"):
        return NOTHING  # type: ignore[no-any-return]
    return _converted(float, found)  # type: ignore[no-any-return]


def integer(value: Any) -> int:
    """Anything that is a whole number, also 1e4."""
    found = _scalar(value)
    if isinstance(found, (bool, str, bytes)):
        return NOTHING  # type: ignore[no-any-return]
    exact = _converted(operator.index, found)
    if exact is not NOTHING:
        return exact  # type: ignore[no-any-return]
    real = number(found)
    return int(real) if real is not NOTHING and real.is_integer() else NOTHING


def flag(value: Any) -> bool:
    """True or False, of python, numpy or torch."""
    found = _scalar(value)
    return found if isinstance(found, bool) else NOTHING


def text(value: Any) -> str:
    """A string that is not empty."""
    return str(value) if isinstance(value, str) and value else NOTHING


def numbers(value: Any) -> tuple[float, ...]:
    """A sequence of numbers of any class: list, tuple, array, tensor, a config's own."""
    if isinstance(value, (str, bytes, Mapping, Set)):
        return NOTHING  # type: ignore[no-any-return]
    members = _converted(tuple, value)
    found = NOTHING if members is NOTHING else tuple(number(member) for member in members)
    return NOTHING if found is NOTHING or NOTHING in found else found


def plain(value: Any) -> Any:
    """A numpy scalar as python's own; everything else as it is."""
    is_foreign_scalar = (
        hasattr(value, "dtype") and not isinstance(value, Tensor) and getattr(value, "shape", None) == ()
    )
    return _converted(lambda scalar: scalar.item(), value) if is_foreign_scalar else value


def _scalar(value: Any) -> Any:
    """What an array or tensor of one element holds; anything else as it is."""
    if type(value) in (float, int, bool, str) or not hasattr(value, "item"):
        return value
    return _converted(lambda one: one.item(), value.detach() if isinstance(value, Tensor) else value)


def _converted(convert: Any, value: Any) -> Any:
    try:
        return convert(value)
    except (
        TypeError,
        ValueError,
        OverflowError,
        ArithmeticError,
        RuntimeError,
    ):  # of numpy and torch: several elements
        return NOTHING
