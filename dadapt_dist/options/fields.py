"""The options of a method: fields that carry a default, a check and a line of documentation each.

The options of a method are a frozen dataclass whose fields are made here:

    @dataclass(frozen=True)
    class DoGOptions(MethodOptions):
        lr: float = LR(1.0)
        reps_rel: float = option(1e-6, number, is_positive, "a number > 0", "use the default, {usual}", "first distance")

Configs and schedulers hand over numpy scalars, tensors of one element, fractions and lists of their own. What they can be read
as is what counts; what is kept is plain, so that a checkpoint loads with weights_only=True.
"""

import inspect
import math
import operator
from collections.abc import Callable, Mapping, Set
from dataclasses import Field, dataclass, field, fields
from functools import cache, partial
from typing import Any

import torch
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


def whole_or_none(value: Any) -> Any:
    """None, or a whole number."""
    return None if value is None else integer(value)


def word_or_none(value: Any) -> Any:
    """None, or a string that is not empty."""
    return None if value is None else text(value)


def _scalar(value: Any) -> Any:
    """What an array or tensor of one element holds; anything else as it is."""
    if type(value) in (float, int, bool, str) or not hasattr(value, "item"):
        return value
    return _converted(lambda one: one.item(), value.detach() if isinstance(value, Tensor) else value)


def _converted(convert: Any, value: Any) -> Any:
    try:
        return convert(value)
    except (TypeError, ValueError, ArithmeticError, RuntimeError):  # the last: torch, of several elements
        return NOTHING


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

    def checked(self, name: str, value: Any, where: str, usual: type | None = None) -> Any:
        """An option as plain python, but for an lr that is a CPU tensor. ValueError with value, range and cure otherwise.

        Args:
            name: the option.
            value: what was given for it.
            where: what the error calls the optimizer or group.
            usual: the class whose constructor's default the error names; None for the method's own.
        """
        read = self.read(value)
        if read is not NOTHING and self.right(read):
            return read
        why = _why(value) if read is NOTHING else "is out of range"
        cure = _cure(name, value, self, usual)
        raise ValueError(f"{where}: {name}={value!r} {why}; it must be {self.allowed}. {cure}")


def _why(value: Any) -> str:
    if isinstance(value, Tensor) and value.numel() == 1 and value.device.type != "cpu":
        return f"is on {value.device}, where reading it would make every step wait for the device"
    return f"cannot be read ({type(value).__name__})"


def _cure(name: str, value: Any, check: Check, usual: type | None) -> str:
    if isinstance(value, Tensor) and value.numel() == 1 and value.device.type != "cpu":
        return f"Pass {name}.item(), or a tensor on the CPU."
    if isinstance(value, str) and number(_as_number(value)) is not NOTHING:
        return "It is text: leave the quotes out; YAML takes 1e-6 for text, and 1.0e-6 for a number."
    default = _default(name, usual)
    return _sentence(check.cure.format(usual=repr(check.usual if default is NOTHING else default)))


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


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:] + "."


def option(
    default: Any,
    read: Callable[[Any], Any],
    right: Callable[[Any], bool],
    allowed: str,
    cure: str,
    doc: str,
    *,
    later: bool = False,
    of_estimate: bool = False,
) -> Any:
    """A field of an options dataclass that may be set per parameter group.

    The arguments are those of `Check`, but for later: the option is newer than checkpoints that are still to be loaded, which
    have its default, None or False. It is given by keyword alone, so that calls by position keep their meaning. While it has
    that default no group holds it, as none did before: read it with `options.get`. of_estimate: all groups of one estimate
    must have the same.
    """
    if later and default not in (None, False):
        raise ValueError(f"default={default!r} of a later option must be None or False, which its absence stands for.")
    metadata = {"check": Check(read, right, allowed, cure, default, doc), "later": later, "of_estimate": of_estimate}
    return (
        field(default=default, metadata=metadata, kw_only=True) if later else field(default=default, metadata=metadata)
    )


def accepted(default: Any, doc: str) -> Any:
    """A field that the constructor takes for compatibility, and that no group holds."""
    return field(default=default, metadata={"doc": doc})


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


def switch(default: bool | None, doc: str, *, later: bool = False) -> Any:
    """True or False; a default of None leaves it to the method's `completed` which of them that is."""
    if default is not None:
        return option(default, flag, is_anything, "True or False", "pass a bool", doc, later=later)
    allowed, cure = "None, True or False", "pass a bool, or leave it out"
    return option(
        None, lambda value: None if value is None else flag(value), is_anything, allowed, cure, doc, later=later
    )


def choice(default: str | None, words: Mapping[str, str], doc: str, *, later: bool = False) -> Any:
    """None, or one of some words, each with the word that stands for it."""
    allowed = f"None or {' or '.join(map(repr, words))}"
    cure = "leave it out for none of them"

    def read(value: Any) -> Any:
        word = word_or_none(value)
        return words.get(word, word) if isinstance(word, str) else word

    return option(default, read, lambda value: value in (None, *words.values()), allowed, cure, doc, later=later)


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
    of_estimate=True,
)
GROWTH_RATE = partial(
    option,
    read=number,
    right=lambda value: value >= 1,
    allowed="a number >= 1, or inf",
    cure="inf sets no bound; 1.02 is a slow growth",
    doc="bound on the growth of d per step; inf sets none",
    of_estimate=True,
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


@dataclass(frozen=True, kw_only=True)
class MethodOptions:
    """Options that every method has. The subclass of a method adds its own, in the order of the constructor.

    Raises:
        ValueError: a value that cannot be right; the message names value, range and cure.

    Example:
        >>> from dadapt_dist.methods import METHODS
        >>> METHODS["prodigy"].options(d0=1e-5).d0
        1e-05
    """

    layer_scale: float = option(
        1.0,
        number,
        is_nonnegative,
        "a number >= 0",
        "1.0 leaves the group as it is",
        "step of a group relative to the others",
    )
    maximize: bool = switch(False, "ascend instead of descend")
    estimate: str = option(
        "default",
        text,
        is_anything,
        "a name",
        "leave it out: all groups share one d",
        "name of the estimate of d that a group uses",
    )

    def __post_init__(self) -> None:
        for name, check in self.checks().items():
            object.__setattr__(self, name, check.checked(name, getattr(self, name), type(self).__name__))

    @classmethod
    @cache
    def checks(cls) -> Mapping[str, Check]:
        """The check of each option that a group may hold, by name."""
        return {f.name: f.metadata["check"] for f in _ordered(cls) if "check" in f.metadata}

    @classmethod
    @cache
    def of_estimate(cls) -> tuple[str, ...]:
        """The options that all groups of one estimate must share."""
        return tuple(f.name for f in fields(cls) if f.metadata.get("of_estimate"))

    @classmethod
    def of_constructor(cls) -> tuple[Field[Any], ...]:
        """The fields that the optimizer's constructor takes, those that may be given by position first."""
        return tuple(f for f in _ordered(cls) if f.name != "estimate")

    @classmethod
    def defaults(cls) -> dict[str, Any]:
        """The default of each option that a group may hold, by name."""
        return {name: check.usual for name, check in cls.checks().items()}

    @classmethod
    def leave_out(cls, group: dict[str, Any]) -> None:
        """Take the options that older checkpoints lack out of a group that has their defaults. In place.

        Tools that load a checkpoint key by key ask for every key of a group.
        """
        checks = cls.checks()
        for name in cls.later():
            if group.get(name) is None or group[name] is checks[name].usual:
                group.pop(name, None)

    @classmethod
    @cache
    def later(cls) -> frozenset[str]:
        """The options that older checkpoints lack."""
        return frozenset(f.name for f in fields(cls) if f.metadata.get("later", False))


def _ordered(options: type[MethodOptions]) -> list[Field[Any]]:
    """The fields, those that may be given by position first."""
    return sorted(fields(options), key=lambda f: bool(f.kw_only))
