"""The public optimizer classes, one a method or variant of it. Changing the import from prodigyopt or dadaptation is enough.

Each class is made, when it is first asked for, from what the method's file says. optimizers.pyi shows their signatures to
type checkers and editors; `make format` writes it.
"""

from typing import Any

from . import methods
from .engine.optimizer import LearningRateFree
from .engine.optimizer_class import make_class
from .methods.registry import METHODS, by_class_name, class_name, class_names, variant_of


def of_method(name: str) -> type[LearningRateFree]:
    """The optimizer class of a method.

    Raises:
        KeyError: no method has this name.
    """
    cls: type[LearningRateFree] = globals().get(class_name(METHODS[name])) or __getattr__(class_name(METHODS[name]))
    return cls


def classes() -> dict[str, type[LearningRateFree]]:
    """The optimizer class of every method, registered ones too, by the method's name."""
    return {name: of_method(name) for name in METHODS}


def register(method: type[methods.Method]) -> type[LearningRateFree]:
    """Make a method of your own an optimizer like the others; `methods.register` says what it must define.

    Returns:
        Its optimizer class, which from now on is `dadapt_dist.optimizers.<Name>`.
    """
    return of_method(methods.register(method).name)


def __getattr__(name: str) -> Any:
    method = by_class_name(name)
    if method is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return globals().setdefault(name, make_class(method, variant_of(method, name)))


def __dir__() -> list[str]:
    return sorted({*globals(), *class_names()})


__all__ = [*class_names()]
