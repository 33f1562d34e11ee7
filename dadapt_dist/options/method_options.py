"""Base of the options of a method: a frozen dataclass that checks its values."""

from collections.abc import Mapping
from dataclasses import Field, dataclass, fields
from functools import cache
from typing import Any

from .checks import check_value
from .fields import Check, is_anything, is_nonnegative, option, switch
from .plain_values import number, text


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
        for name in self.checks():
            value = check_value(name, getattr(self, name), self.checks(), type(self).__name__)
            object.__setattr__(self, name, value)

    @classmethod
    @cache
    def checks(cls) -> Mapping[str, Check]:
        """The check of each option that a group may hold, by name."""
        return {f.name: f.metadata["check"] for f in _ordered(cls) if "check" in f.metadata}

    @classmethod
    def of_constructor(cls) -> tuple[Field[Any], ...]:
        """The fields that the optimizer's constructor takes, those that may be given by position first."""
        return tuple(f for f in _ordered(cls) if f.name != "estimate")

    @classmethod
    def defaults(cls) -> dict[str, Any]:
        """The default of each option that a group may hold, by name."""
        return {name: check.usual for name, check in cls.checks().items()}


def _ordered(options: type[MethodOptions]) -> list[Field[Any]]:
    """The fields, those that may be given by position first."""
    return sorted(fields(options), key=lambda f: bool(f.kw_only))
