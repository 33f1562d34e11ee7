"""The methods that exist: those of this folder, one class a file, and those that users register."""

import importlib
import math
import pkgutil
import re
from collections.abc import Callable
from inspect import isabstract
from pathlib import Path
from typing import Any, get_origin

from ..options.fields import MethodOptions
from .base import Documentation, Method, Variant
from .fold_checks import check_folds

METHODS: dict[str, type[Method]] = {}
"""Every method by its name, in alphabetical order; registered ones follow."""
_SUFFIX = "Method"
OF_ENGINE = (
    "k",
    "held",
    "started",
    "updates",
    "steps",
    "params",
    "param_names",
    "method",
    "format",
    "mode",
    "tensor_estimates",
)
"""What else stands in a parameter group: a scalar of one of these names would take its place."""
_watchers: list[Callable[[type[Method]], None]] = []


def register(method: type[Method]) -> type[Method]:
    """Make a method known under its name; works as a decorator.

    Args:
        method: a class that defines name, options, documentation and the mathematics, called `<Class>Method`.

    Returns:
        The method itself.

    Raises:
        TypeError: something that a method must define is missing, or a fold returns what its scalars cannot hold.
        ValueError: another method has its name or that of its public class.

    Example:
        >>> from dadapt_dist.methods import METHODS, register
        >>> register(METHODS["prodigy"]).name
        'prodigy'
    """
    _check(method)
    METHODS[method.name] = method
    for watcher in _watchers:
        watcher(method)
    return method


def watch(watcher: Callable[[type[Method]], None]) -> None:
    """Call `watcher` with every method that is registered from now on. Idempotent."""
    if watcher not in _watchers:
        _watchers.append(watcher)


def class_name(method: type[Method]) -> str:
    """Name of the public optimizer class: that of the method's class without "Method"."""
    return method.__name__.removesuffix(_SUFFIX)


def class_names() -> tuple[str, ...]:
    """Names of the public optimizer classes, which are the types in a DeepSpeed config."""
    return tuple(name for method in METHODS.values() for name in names_of(method))


def names_of(method: type[Method]) -> tuple[str, ...]:
    """Names of a method's public classes, that of the method itself first."""
    return class_name(method), *(variant.name for variant in method.variants)


def variant_of(method: type[Method], name: str) -> Variant | None:
    """The variant of a method whose class has this name; None for the method itself."""
    return next((variant for variant in method.variants if variant.name == name), None)


def tensors_of(name: str) -> int:
    """How many tensors a step of a public class needs for each parameter: it, its gradient and its buffers.

    Raises:
        KeyError: no class has this name.
    """
    method = by_class_name(name)
    if method is None:
        raise KeyError(name)
    return 2 + len(method().buffers(method.options.defaults()))


def flag_name(method: type[Method]) -> str:
    """Name of a method on the command line."""
    return method.name.replace("_", "-")


def by_class_name(name: str) -> type[Method] | None:
    """The method of the public class that has this name; None where there is none."""
    return next((method for method in METHODS.values() if name in names_of(method)), None)


def _check(method: Any) -> None:
    if not (isinstance(method, type) and issubclass(method, Method)):
        raise TypeError(f"{method!r} is no method: derive a class from dadapt_dist.methods.Method")
    missing = [name for name in ("name", "options", "documentation") if not hasattr(method, name)]
    if missing or isabstract(method):
        missing += sorted(getattr(method, "__abstractmethods__", ()))
        raise TypeError(f"{method.__name__} lacks {', '.join(missing)}: a method defines them all")
    name: Any = method.name
    if not isinstance(name, str) or re.fullmatch("[a-z][a-z0-9_]*", name) is None:
        raise TypeError(
            f"{method.__name__}.name={name!r} must be lower-case letters, digits and _: it stands in checkpoints"
        )
    options: Any = method.options
    if not (isinstance(options, type) and issubclass(options, MethodOptions)):
        raise TypeError(f"{method.__name__}.options must be a frozen dataclass derived from MethodOptions")
    if not isinstance(method.documentation, Documentation):
        raise TypeError(f"{method.__name__}.documentation must be a Documentation(summary=..., when=..., ...)")
    _check_scalars(method)
    check_folds(method)
    if not method.__name__.endswith(_SUFFIX) or not class_name(method).isidentifier():
        raise TypeError(f"{method.__name__} must be called <name of the public class>{_SUFFIX}")
    for other in METHODS.values():
        same = (other.__module__, other.__qualname__) == (method.__module__, method.__qualname__)
        if not same and (other.name == method.name or not {*names_of(other)}.isdisjoint(names_of(method))):
            raise ValueError(
                f"{method.__name__}: {other.__name__} already has the name {method.name!r} or {' or '.join(names_of(method))}. "
                "Take another."
            )


def _check_scalars(method: type[Method]) -> None:
    """Raise TypeError for scalars that cannot stand in a parameter group, TypeError or ValueError for their initial values."""
    options = method.options.defaults()
    scalars = method().scalars(options)
    taken = scalars.keys() & {*options, *OF_ENGINE}
    if taken:
        raise TypeError(
            f"{method.__name__}: the scalar {min(taken)!r} has the name of an option, or one of the engine's. Rename it."
        )
    for name, value in scalars.items():
        if not all(math.isfinite(part) for part in (value if isinstance(value, tuple) else (value,))):
            raise ValueError(f"{method.__name__}: the scalar {name!r} begins with {value!r}; it must be finite")
    d = scalars.get("d", 1.0)
    if isinstance(d, tuple) or not d > 0:
        raise ValueError(
            f"{method.__name__}: d begins with {d!r}; it must be a number > 0, or no step would move anything"
        )


def _discover() -> None:
    """Register the methods of this folder."""
    package = __name__.rpartition(".")[0]
    for module in sorted(found.name for found in pkgutil.iter_modules([str(Path(__file__).parent)])):
        if f"{package}.{module}" == __name__:
            continue
        for value in vars(importlib.import_module(f"{package}.{module}")).values():
            is_class = isinstance(value, type) and get_origin(value) is None  # in Python 3.10 list[int] is a type, too
            is_method = is_class and issubclass(value, Method) and not isabstract(value)
            if is_method and value.__module__ == f"{package}.{module}":
                register(value)


_discover()
