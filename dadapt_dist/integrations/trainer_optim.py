"""Give Hugging Face's Trainer an optimizer that its `--optim` cannot name: `dadapt-dist run --optim Prodigy train.py`.

The Trainer asks `Trainer.get_optimizer_cls_and_kwargs` for what its arguments name. That function is replaced, when the script
imports the Trainer; a script that passes an optimizer, or optimizer_cls_and_kwargs, still has its own.
"""

import importlib.util
import logging
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

from torch.optim import Optimizer

from .. import optimizers
from ..engine.optimizer_class import read_arguments, signature_of
from ..methods.registry import METHODS, by_class_name, class_name, class_names, names_of, variant_of
from ..options.checks import check_options
from ..options.typed import typed_options

logger = logging.getLogger("dadapt_dist.run")
TRAINER = "transformers.trainer"


@dataclass(frozen=True)
class Choice:
    """What `--optim` asked for."""

    cls: type[Optimizer]
    options: Mapping[str, Any]


def read_choice(text: str) -> Choice:
    """The optimizer of `--optim NAME[:option=value,...]`, with its options checked.

    Raises:
        ValueError: no optimizer has the name, or an option is unknown or out of its range.

    Example:
        >>> read_choice("prodigy:d_coef=2.0").options
        {'d_coef': 2.0}
    """
    typed, _, rest = text.partition(":")
    by_name = {found.lower(): found for method in METHODS.values() for found in names_of(method)}
    by_name |= {name: class_name(method) for name, method in METHODS.items()}
    name = by_name.get(typed.lower().replace("-", "_"))
    method = None if name is None else by_class_name(name)
    if name is None or method is None:
        raise ValueError(f"--optim {text}: no optimizer is called {typed!r}; give one of {', '.join(class_names())}")
    options, where = typed_options(rest, f"--optim {text}"), f"--optim {typed}"
    try:
        read_arguments(signature_of(method, variant_of(method, name)), ((),), options, where)
    except TypeError as error:
        raise ValueError(str(error)) from None
    checks = method.options.checks()
    check_options({key: value for key, value in options.items() if key in checks}, checks, where)
    return Choice(getattr(optimizers, name), options)


def install(choice: Choice) -> None:
    """Make it the optimizer of every Trainer that is not given one: now, or when the Trainer is imported."""

    def change(module: ModuleType) -> None:
        _change(module, choice)

    if TRAINER in sys.modules:
        change(sys.modules[TRAINER])
    else:
        sys.meta_path.insert(0, _AfterImport(TRAINER, change))


def _change(module: Any, choice: Choice) -> None:
    def get_optimizer_cls_and_kwargs(args: Any, model: Any = None) -> tuple[type[Optimizer], dict[str, Any]]:
        named = getattr(args, "optim", None)
        logger.info(
            "dadapt_dist.%s stands in for the Trainer's optim=%s; its options: %s",
            choice.cls.__name__, getattr(named, "value", named), dict(choice.options) or "the defaults",
        )  # fmt: skip
        return choice.cls, dict(choice.options)

    module.Trainer.get_optimizer_cls_and_kwargs = staticmethod(get_optimizer_cls_and_kwargs)
    from .transformers import DAdaptCallbackWhereOurs

    module.DEFAULT_CALLBACKS.append(DAdaptCallbackWhereOurs)


class _AfterImport:
    """Calls a function with a module when it has been imported, once. It stands in sys.meta_path until then."""

    def __init__(self, name: str, then: Callable[[ModuleType], None]) -> None:
        self._name, self._then = name, then

    def find_spec(self, name: str, path: object = None, target: ModuleType | None = None) -> ModuleSpec | None:
        """The spec that the other finders give, with a loader that calls the function afterwards."""
        if name != self._name:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader, self._then)  # type: ignore[assignment]
        return spec


class _Loader:
    """Another loader, and a function to call when it is done."""

    def __init__(self, real: Any, then: Callable[[ModuleType], None]) -> None:
        self._real, self._then = real, then

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        """What the other loader makes."""
        made: ModuleType | None = self._real.create_module(spec)
        return made

    def exec_module(self, module: ModuleType) -> None:
        """Run the module by the other loader, leave that one in its place, and call the function."""
        assert module.__spec__ is not None
        module.__loader__ = module.__spec__.loader = self._real
        self._real.exec_module(module)
        self._then(module)
