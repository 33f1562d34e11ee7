"""Which option values can be right? Ranges, unknown names, and what an error says about them."""

import difflib
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal

from torch import Tensor

Sync = Literal["next_step", "step"]
NonFinite = Literal["hold", "skip", "raise"]
Check = tuple[Callable[[Any], bool], str, str]  # is it right?, the range, the cure


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and not math.isnan(value)


def _rate(value: Any) -> bool:
    if isinstance(value, Tensor):  # a 0-dim CPU tensor can be read without waiting for a device
        return value.dim() == 0 and value.device.type == "cpu" and _rate(float(value))
    return _number(value) and 0 <= value < math.inf


def _positive(value: Any) -> bool:
    return _number(value) and 0 < value < math.inf


def _nonnegative(value: Any) -> bool:
    return _number(value) and 0 <= value < math.inf


def _fraction(value: Any) -> bool:
    return _number(value) and 0 <= value < 1


def _betas(value: Any) -> bool:
    return isinstance(value, (tuple, list)) and len(value) in (2, 3) and all(_fraction(v) for v in value)


def _flag(value: Any) -> bool:
    return isinstance(value, bool)


def _count(lowest: int) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, int) and not isinstance(value, bool) and value >= lowest


_FLAG: Check = (_flag, "True or False", "pass a bool")
CHECKS: dict[str, Check] = {
    "lr": (_rate, "a number >= 0", "leave lr=1.0: it multiplies the step size that d gives, and a schedule scales it"),
    "betas": (
        _betas,
        "numbers in [0, 1), as many as the method's default has",
        "use the default, such as (0.9, 0.999)",
    ),
    "beta3": (lambda v: v is None or _fraction(v), "None or a number in [0, 1)", "leave None: sqrt(betas[1])"),
    "eps": (_positive, "a number > 0", "use the default, 1e-8"),
    "weight_decay": (_nonnegative, "a number >= 0", "0 turns decay off"),
    "momentum": (_fraction, "a number in [0, 1)", "0 turns momentum off"),
    "d0": (_positive, "a number > 0", "use the default, 1e-6: d grows from there by itself"),
    "d_coef": (_positive, "a number > 0", "1.0 is the method's own estimate; 0.5 to 2 are usual"),
    "growth_rate": (
        lambda v: _number(v) and v >= 1,
        "a number >= 1, or inf",
        "inf sets no bound; 1.02 is a slow growth",
    ),
    "layer_scale": (_nonnegative, "a number >= 0", "1.0 leaves the group as it is"),
    "slice_p": (_count(1), "an integer >= 1", "1 uses every entry; 11 is usual to save memory"),
    "log_every": (_count(0), "an integer >= 0", "0 logs nothing"),
    "estimate": (lambda v: isinstance(v, str) and bool(v), "a name", "leave it out: all groups share one d"),
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


def check_options(options: Mapping[str, Any], defaults: Mapping[str, Any], where: str) -> None:
    """Raise ValueError for the first option of `options` that cannot be right.

    A key that is not an option but nearly is one (`weight_decya`) raises too; other foreign keys are the user's own.
    """
    for name, value in options.items():
        if name in CHECKS and name in defaults:
            _check_value(name, value, defaults, where)
        elif name not in defaults and name not in FOREIGN_KEYS:
            _check_foreign(name, defaults, where)


def check_lr(lr: Any, where: str) -> float:
    """The lr of a group as a number; ValueError when a schedule or a user has set one that cannot be right."""
    if not (isinstance(lr, (int, float)) and 0 <= lr < math.inf):
        _check_value("lr", lr, CHECKS, where)
    return float(lr)


def check_choice(name: str, value: Any, allowed: tuple[str | None, ...]) -> None:
    """Raise ValueError for a value that is not one of the allowed words."""
    if value not in allowed:
        raise ValueError(f"{name}={value!r} is not one of {', '.join(repr(choice) for choice in allowed)}")


def check_freeze_after(value: Any) -> None:
    """Raise ValueError for a value that is neither None nor a number of steps."""
    if value is not None and (type(value) is not int or value < 1):
        raise ValueError(f"freeze_after={value!r} must be an integer >= 1, or None to estimate d to the end")


def check_names(name: str, value: Any) -> None:
    """Raise ValueError for a value that is neither None nor a non-empty sequence of different names."""
    if value is not None and (isinstance(value, str) or not value or len({*value}) < len(value)):
        raise ValueError(f"{name}={value!r} must be a list of different names, or None")


def _check_value(name: str, value: Any, defaults: Mapping[str, Any], where: str) -> None:
    right, allowed, cure = CHECKS[name]
    wrong_length = name == "betas" and right(value) and len(value) != len(defaults[name])
    if not right(value) or wrong_length:
        raise ValueError(f"{where}: {name}={value!r} is out of range; it must be {allowed}. {_sentence(cure)}")


def _check_foreign(name: str, defaults: Mapping[str, Any], where: str) -> None:
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
