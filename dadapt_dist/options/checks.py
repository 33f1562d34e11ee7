"""Which option values can be right? Ranges, unknown names, and what an error says about them."""

import difflib
import inspect
import math
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from .plain_values import NOTHING, flag, integer, number, numbers, plain, text

Sync = Literal["next_step", "step"]
NonFinite = Literal["hold", "skip", "raise"]
LARGEST = sys.float_info.max
PRODIGYS = ("d_coef", "beta3")  # options of an estimate that one method alone has
TRAINABLE = (torch.float64, torch.float32, torch.bfloat16, torch.float16)  # dtypes of parameters that can train


@dataclass(frozen=True)
class Check:
    """What an option can be. read: the value as plain python, NOTHING when it is no such thing; right: is it in range?

    allowed: the range in words. cure: for the error's last sentence; {usual} stands for the method's own default.
    """

    read: Callable[[Any], Any]
    right: Callable[[Any], bool]
    allowed: str
    cure: str


def _rate(value: Any) -> Any:
    """A number, or a CPU tensor that its owner goes on changing: it can be read in every step without waiting for a device."""
    if not isinstance(value, Tensor):
        return number(value)
    if value.device.type != "cpu" or value.layout is not torch.strided or number(value) is NOTHING:
        return NOTHING
    return value.detach().reshape(())  # the same memory


def _optional(value: Any) -> Any:
    return None if value is None else number(value)


def _nonnegative(value: Any) -> bool:
    return 0 <= float(value) < math.inf


def _positive(value: float) -> bool:
    return 0 < value < math.inf


def _fraction(value: float) -> bool:
    return 0 <= value < 1


def _betas(value: tuple[float, ...]) -> bool:
    return len(value) in (2, 3) and all(map(_fraction, value))


def _any(_: Any) -> bool:
    return True


_FLAG = Check(flag, _any, "True or False", "pass a bool")
CHECKS: dict[str, Check] = {
    "lr": Check(
        _rate,
        _nonnegative,
        "a number >= 0",
        "leave lr=1.0: it multiplies the step size that d gives, and a schedule scales it",
    ),
    "betas": Check(
        numbers, _betas, "numbers in [0, 1), as many as the method's default has", "use the default, {usual}"
    ),
    "beta3": Check(
        _optional, lambda v: v is None or _fraction(v), "None or a number in [0, 1)", "leave None: sqrt(betas[1])"
    ),
    "eps": Check(number, _positive, "a number > 0", "use the default, {usual}"),
    "weight_decay": Check(number, _nonnegative, "a number >= 0", "the default is {usual}, and 0 turns decay off"),
    "momentum": Check(number, _fraction, "a number in [0, 1)", "0 turns momentum off"),
    "d0": Check(number, _positive, "a number > 0", "use the default, {usual}: d grows from there by itself"),
    "d_coef": Check(number, _positive, "a number > 0", "1.0 is the method's own estimate; 0.5 to 2 are usual"),
    "growth_rate": Check(number, lambda v: v >= 1, "a number >= 1, or inf", "inf sets no bound; 1.02 is a slow growth"),
    "layer_scale": Check(number, _nonnegative, "a number >= 0", "1.0 leaves the group as it is"),
    "slice_p": Check(
        integer,
        lambda v: 1 <= v <= 2**53,
        "an integer >= 1, at most 2**53",
        "1 uses every entry; 11 is usual to save memory",
    ),
    "log_every": Check(integer, lambda v: v >= 0, "an integer >= 0", "0 logs nothing"),
    "estimate": Check(text, _any, "a name", "leave it out: all groups share one d"),
    "decouple": _FLAG,
    "use_bias_correction": _FLAG,
    "safeguard_warmup": _FLAG,
    "no_prox": _FLAG,
    "maximize": _FLAG,
}

# Keys that frameworks and users put into groups for purposes of their own.
FOREIGN_KEYS = frozenset({
    "params", "param_names", "name", "initial_lr", "max_lr", "min_lr", "fused", "foreach", "capturable", "differentiable",
    "lr_scale", "method", "base_momentum", "max_momentum",
})  # fmt: skip


def check_options(
    options: Mapping[str, Any], defaults: Mapping[str, Any], where: str, usual: type | None = None
) -> dict[str, Any]:
    """The options as plain python: floats, ints, bools, tuples of floats. Anything else in them stays as it is.

    Raises ValueError for the first that cannot be right. A key that is not an option but nearly is one (`weight_decya`)
    raises too; other foreign keys are the user's own. usual: the class whose defaults the errors name.
    """
    read = {}
    for name, value in options.items():
        if name in CHECKS and name in defaults:
            read[name] = check_value(name, value, defaults, where, usual)
        else:
            if name not in defaults and name not in FOREIGN_KEYS:
                _check_foreign(name, defaults, where)
            read[name] = plain(value)
    return read


def check_lr(lr: Any, where: str) -> float:
    """The lr of a group as a number; ValueError when a schedule or a user has set one that cannot be right."""
    if not (isinstance(lr, (int, float)) and 0 <= lr <= LARGEST):
        lr = check_value("lr", lr, CHECKS, where)
    return float(lr)


def assigned(name: str, value: Any, options: Mapping[str, Any], where: str) -> Any:
    """What a group is to keep of a value assigned to it: plain python. ValueError for an option that cannot be right."""
    if isinstance(value, Tensor) and name == "lr":
        return value if value.ndim == 0 and not value.requires_grad else _rate(value)
    if name in CHECKS and name in options:
        return check_value(name, value, options, where)
    return plain(value)


def check_choice(name: str, value: Any, allowed: tuple[str | None, ...]) -> None:
    """Raise ValueError for a value that is not one of the allowed words."""
    if value not in allowed:
        raise ValueError(f"{name}={value!r} is not one of {', '.join(repr(choice) for choice in allowed)}")


def check_freeze_after(value: Any) -> int | None:
    """A number of steps, or None; ValueError for anything else."""
    steps = None if value is None else integer(value)
    if steps is not None and (steps is NOTHING or steps < 1):
        raise ValueError(f"freeze_after={value!r} must be an integer >= 1, or None to estimate d to the end")
    return steps


def check_names(name: str, value: Any) -> tuple[str, ...] | None:
    """A non-empty sequence of different names, or None; ValueError for anything else. (Sets differ in order between ranks.)"""
    if value is None:
        return None
    names = () if isinstance(value, (str, set, frozenset)) or not hasattr(value, "__iter__") else tuple(value)
    if not names or NOTHING in map(text, names) or len({*names}) < len(names):
        raise ValueError(f"{name}={value!r} must be a list of different names, or None")
    return tuple(map(str, names))


def check_value(name: str, value: Any, defaults: Mapping[str, Any], where: str, usual: type | None = None) -> Any:
    """An option as plain python, but for an lr that is a CPU tensor. ValueError with value, range and cure otherwise."""
    check = CHECKS[name]
    read = check.read(value)
    if read is NOTHING:
        raise ValueError(
            f"{where}: {name}={value!r} {_why(value)}; it must be {check.allowed}. {_cure(name, value, usual)}"
        )
    wrong_length = name == "betas" and len(read) != len(defaults[name])
    if not check.right(read) or wrong_length:
        raise ValueError(
            f"{where}: {name}={value!r} is out of range; it must be {check.allowed}. {_cure(name, value, usual)}"
        )
    return read


def _why(value: Any) -> str:
    if isinstance(value, Tensor) and value.numel() == 1 and value.device.type != "cpu":
        return f"is on {value.device}, where reading it would make every step wait for the device"
    return f"cannot be read ({type(value).__name__})"


def _cure(name: str, value: Any, usual: type | None) -> str:
    if isinstance(value, Tensor) and value.numel() == 1 and value.device.type != "cpu":
        return f"Pass {name}.item(), or a tensor on the CPU."
    if isinstance(value, str) and number(_as_number(value)) is not NOTHING:
        return "It is text: leave the quotes out; YAML takes 1e-6 for text, and 1.0e-6 for a number."
    default = _default(name, usual)
    return _sentence(CHECKS[name].cure.format(usual="that of the method" if default is NOTHING else repr(default)))


def _as_number(value: str) -> Any:
    try:
        return float(value)
    except ValueError:
        return None


def _default(name: str, cls: type | None) -> Any:
    """The default of an option in the constructor of a class, or of the nearest base that names it."""
    for base in () if cls is None else cls.__mro__:
        build = vars(base).get("__init__")
        given = None if build is None else inspect.signature(build).parameters.get(name)
        if given is not None and given.default is not given.empty:
            return given.default
    return NOTHING


def _check_foreign(name: str, defaults: Mapping[str, Any], where: str) -> None:
    if name in PRODIGYS:
        raise ValueError(
            f"{where}: {name} is an option of Prodigy alone, and would do nothing here. Leave it out. Options of a group: "
            f"{listed(defaults)}."
        )
    near = difflib.get_close_matches(name, defaults, n=1, cutoff=0.8)
    if near:
        raise ValueError(
            f"{where}: unknown option {name!r}; did you mean {near[0]!r}? Options of a group: {listed(defaults)}."
        )


def check_keywords(unknown: Iterable[str], known: Iterable[str], where: str) -> None:
    """Raise TypeError for keywords that a constructor does not take, naming the nearest and all that it takes."""
    for name in unknown:
        near = difflib.get_close_matches(name, list(known), n=1)
        hint = f"; did you mean {near[0]!r}?" if near else "."
        raise TypeError(f"{where}: unknown keyword {name!r}{hint} It takes: {listed(known)}.")


def listed(names: Iterable[str]) -> str:
    """Names in alphabetical order, for an error message."""
    return ", ".join(sorted(str(name) for name in names))


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:] + "."
