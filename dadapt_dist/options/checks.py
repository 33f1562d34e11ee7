"""Check option values and names: ranges, close misspellings, and the error that names the cure."""

import difflib
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from .fields import LR, NOTHING, Check, MethodOptions, flag, integer, is_positive, number, plain, rate, text

Sync = Literal["next_step", "step"]
Before = Literal["exact", "lagged"]
Separate = Sequence[str] | Literal["per_tensor"] | None
NonFinite = Literal["hold", "skip", "raise"]
LARGEST = sys.float_info.max
TRAINABLE = (torch.float64, torch.float32, torch.bfloat16, torch.float16)  # dtypes of parameters that can train
_LR: Check = LR(1.0).metadata["check"]

# Keys that frameworks and users put into groups for purposes of their own.
FOREIGN_KEYS = frozenset({
    "params", "param_names", "name", "initial_lr", "max_lr", "min_lr", "fused", "foreach", "capturable", "differentiable",
    "lr_scale", "method", "base_momentum", "max_momentum",
})  # fmt: skip


def check_options(
    options: Mapping[str, Any], known: Mapping[str, Check], where: str, usual: type | None = None
) -> dict[str, Any]:
    """Return the options as plain Python: floats, ints, bools, tuples of floats. Anything else in them stays as it is.

    Args:
        options: those of an optimizer or a group, by name.
        known: the checks of the method's options.
        where: what an error calls the optimizer or group.
        usual: the class whose constructor's defaults the errors name; None for the method's own.

    Raises:
        ValueError: the first option that cannot be right. A key that is not an option but nearly is one (`weight_decya`)
            raises too; other foreign keys are the user's own.
    """
    read = {}
    for name, value in options.items():
        if name in known:
            read[name] = known[name].checked(name, value, where, usual)
        else:
            if name not in FOREIGN_KEYS:
                _check_foreign(name, known, where)
            read[name] = plain(value)
    return read


def check_lr(lr: Any, where: str) -> float:
    """The lr of a group as a number; ValueError when a schedule or a user has set one that cannot be right."""
    if not (isinstance(lr, (int, float)) and 0 <= lr <= LARGEST):
        lr = _LR.checked("lr", lr, where)
    return float(lr)


def assigned(name: str, value: Any, known: Mapping[str, Check], where: str) -> Any:
    """What a group is to keep of a value assigned to it: plain python. ValueError for an option that cannot be right."""
    if isinstance(value, Tensor) and name == "lr":
        return value if value.ndim == 0 and not value.requires_grad else rate(value)
    if name in known:
        return known[name].checked(name, value, where)
    return plain(value)


def check_choice(name: str, value: Any, allowed: tuple[str | None, ...]) -> None:
    """Raise ValueError for a value that is not one of the allowed words."""
    if value not in allowed:
        raise ValueError(f"{name}={value!r} is not one of {', '.join(repr(choice) for choice in allowed)}")


def check_count(name: str, value: Any) -> int | None:
    """A number of steps, or None; ValueError for anything else."""
    steps = None if value is None else integer(value)
    if steps is not None and (steps is NOTHING or steps < 1):
        raise ValueError(f"{name}={value!r} must be an integer >= 1, or None to estimate d to the end")
    return steps


def check_flag(name: str, value: Any) -> bool:
    """True or False; ValueError for anything else."""
    found = flag(value)
    if found is NOTHING:
        raise ValueError(f"{name}={value!r} must be True or False")
    return found


def check_norm(name: str, value: Any) -> float | None:
    """A norm above 0, or None; ValueError for anything else."""
    found: Any = None if value is None else number(value)
    if found is not None and (found is NOTHING or not is_positive(found)):
        raise ValueError(f"{name}={value!r} must be a number > 0, or None, which clips nothing")
    return None if found is None else float(found)


class Setting:
    """An attribute that is checked whenever it is assigned. Its value lies in the object: reading it calls nothing.

    The object has a method `_accept(name, value)`, which may raise for reasons of its own.

    Args:
        check: Takes name and value, and returns the value to keep; raises ValueError for one that cannot be right.

    Raises:
        ValueError: On assignment; the attribute stays as it was.

    Example:
        >>> class Run:
        ...     sync = Setting(one_of("next_step", "step"))
        ...     def _accept(self, name, value): ...
        >>> run = Run()
        >>> run.sync = "later"
        Traceback (most recent call last):
            ...
        ValueError: sync='later' is not one of 'next_step', 'step'
    """

    def __init__(self, check: Callable[[str, Any], Any]) -> None:
        self._check = check

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __set__(self, owner: Any, value: Any) -> None:
        value = self._check(self._name, value)
        owner._accept(self._name, value)
        vars(owner)[self._name] = value


def one_of(*allowed: str | None) -> Callable[[str, Any], Any]:
    """A check of `Setting`: the value is one of these words."""

    def check(name: str, value: Any) -> Any:
        check_choice(name, value, allowed)
        return value

    return check


def check_names(name: str, value: Any) -> tuple[str, ...] | None:
    """A non-empty sequence of different names, or None; ValueError for anything else. (Sets differ in order between ranks.)"""
    if value is None:
        return None
    names = () if isinstance(value, (str, set, frozenset)) or not hasattr(value, "__iter__") else tuple(value)
    if not names or NOTHING in map(text, names) or len({*names}) < len(names):
        raise ValueError(f"{name}={value!r} must be a list of different names, 'per_tensor' or None")
    return tuple(map(str, names))


def _check_foreign(name: str, known: Iterable[str], where: str) -> None:
    owners = sorted(
        cls.__name__.removesuffix("Options") for cls in _descendants(MethodOptions) if name in cls.of_estimate()
    )
    if owners:
        raise ValueError(
            f"{where}: {name} is an option of {', '.join(owners)} alone, and would do nothing here. Leave it out. Options of a "
            f"group: {listed(known)}."
        )
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.8)
    if near:
        raise ValueError(
            f"{where}: unknown option {name!r}; did you mean {near[0]!r}? Options of a group: {listed(known)}."
        )


def _descendants(cls: type[MethodOptions]) -> Iterator[type[MethodOptions]]:
    """The options of all methods that were defined."""
    below: list[type[MethodOptions]] = type.__subclasses__(cls)
    for child in below:
        yield child
        yield from _descendants(child)


def check_keywords(unknown: Iterable[str], known: Iterable[str], where: str) -> None:
    """Raise TypeError for keywords that a constructor does not take, naming the nearest and all that it takes."""
    for name in unknown:
        near = difflib.get_close_matches(name, list(known), n=1)
        hint = f"; did you mean {near[0]!r}?" if near else "."
        raise TypeError(f"{where}: unknown keyword {name!r}{hint} It takes: {listed(known)}.")


def listed(names: Iterable[str]) -> str:
    """Names in alphabetical order, for an error message."""
    return ", ".join(sorted(str(name) for name in names))
