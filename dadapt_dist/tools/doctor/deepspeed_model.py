"""Ask the installed DeepSpeed which settings it knows, and what it says of a config's values.

DeepSpeed has no list of its settings: it asks a config for them by name. A config that takes note of what it is asked for is such
a list, of whichever release is installed.
"""

import contextlib
import io
import logging
import sys
import typing
import warnings
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from .deepspeed_zero import deepspeed_version
from .findings import Config, Finding, Findings, key_name, meant, shown

FAR, NEAR = 0.7, 0.8  # how like a known name an unknown one is to be named beside it, and to be a mistake for sure
ELSEWHERE = {"sequence_parallel_size", "data_parallel_size", "elasticity"}  # asked for by more than the config
VALID = {"train_batch_size": 1}  # the least that DeepSpeed accepts
# deepspeed_config.py judges these.
SAID_ELSEWHERE = ("train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps", "amp")
UNKNOWN = ("extra_forbidden", "value_error.extra")  # what pydantic 2 and 1 call a name that a section does not have


class Asked(dict[Any, Any]):
    """A dict that takes note of the names that it is asked for."""

    def __init__(self, values: Mapping[Any, Any]) -> None:
        super().__init__(values)
        self.names: set[Any] = set()

    def get(self, name: Any, default: Any = None) -> Any:
        """As dict.get."""
        self.names.add(name)
        return super().get(name, default)

    def __getitem__(self, name: Any) -> Any:
        self.names.add(name)
        return super().__getitem__(name)

    def __contains__(self, name: object) -> bool:
        self.names.add(name)
        return super().__contains__(name)

    def keys(self) -> Any:
        """The dict itself: DeepSpeed looks for names in what this gives."""
        return self


def check_model(config: Config) -> Findings:
    """Names that DeepSpeed does not know, and values that it refuses; a note where it is not installed."""
    with _quiet():
        model = _model()
    if model is None:
        cure = "install it to have them checked, too"
        yield Finding(
            "deepspeed", "it cannot be imported here, so other names and values were not checked", cure, is_note=True
        )
        return
    whole = Asked(VALID)
    _ask(model, whole)
    known = {name for name in whole.names if isinstance(name, str)}
    others = ELSEWHERE | _constants()
    for name, value in config.items():
        if name in SAID_ELSEWHERE or str(name).startswith("_"):
            continue
        if name in known:
            yield from _section(model, name, value)
        elif name not in others:
            yield _unknown(name, known, config)


def scheduler_names(name: str) -> tuple[set[str], set[str]] | None:
    """Parameters of a scheduler of DeepSpeed or torch, and those of them that it needs; None for one that is not known."""
    import inspect

    import torch

    with _quiet():
        try:
            from deepspeed.runtime import lr_schedules as of_deepspeed
        except Exception:  # noqa: BLE001 - whatever is wrong with an installation
            of_deepspeed = None
    made = getattr(of_deepspeed, name, None) or getattr(torch.optim.lr_scheduler, name, None)
    if not isinstance(made, type):
        return None
    parameters = [*inspect.signature(made).parameters.values()][1:]  # the first is the optimizer
    needed = {one.name for one in parameters if one.default is one.empty and one.kind is one.POSITIONAL_OR_KEYWORD}
    return {one.name for one in parameters}, needed


def _model() -> Any:
    """The class of DeepSpeed's configs; None where it cannot be imported."""
    try:
        from deepspeed.runtime.config import DeepSpeedConfig
    except Exception:  # noqa: BLE001 - whatever is wrong with an installation
        return None
    return DeepSpeedConfig


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """DeepSpeed writes what it does on standard output."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        nowhere = io.StringIO()
        with contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _ask(model: Any, config: Config) -> Exception | None:
    """What DeepSpeed says against a config; None where it takes it."""
    with _quiet():
        try:
            model(config)
        except Exception as error:  # noqa: BLE001 - a refusal comes as any kind of error
            return error
    return None


def _constants() -> set[str]:
    """Names that are written into DeepSpeed's modules of constants: what older releases and other parts of it read."""
    modules = [module for name, module in sys.modules.items() if name.startswith("deepspeed.") and "constants" in name]
    return {value for module in modules for value in vars(module).values() if isinstance(value, str)}


def _section(model: Any, name: str, value: Any) -> Findings:
    """What DeepSpeed says of one section, the rest of the file left out."""
    if value == "auto":
        return
    section = Asked(_filled(value)) if isinstance(value, Mapping) else value
    error = _ask(model, Asked({**VALID, name: section}))
    if error is not None:
        is_only_here = name == "elasticity" and "removed" not in str(error)  # with one process it rarely fits
        yield from () if is_only_here else _refused(name, value, error)
    elif isinstance(section, Asked):
        asked = {one for one in section.names if isinstance(one, str)}
        for key in value:
            cure = None if key in asked else meant(key, asked, value, NEAR)
            if cure:
                yield Finding(f"{name}.{key_name(key)}", _passed_over(), cure)


def _filled(value: Any) -> Any:
    """A section without what is left to others to fill in."""
    if isinstance(value, Mapping):
        return {name: _filled(one) for name, one in value.items() if one != "auto"}
    return value


def _unknown(name: Any, known: set[str], config: Config) -> Finding:
    near = meant(name, known, config, NEAR)
    unsure = meant(name, known - config.keys(), (), FAR)
    cure = near or unsure or "remove it, or let it begin with _ if it is a note"
    return Finding(key_name(name), _passed_over(), cure, is_error=near is not None)


def _passed_over() -> str:
    release = ".".join(map(str, deepspeed_version() or ()))
    return f"{'DeepSpeed ' + release if release else 'DeepSpeed'} does not know it, and passes over it"


def _refused(name: str, value: Any, error: Exception) -> Findings:
    """The errors of DeepSpeed's model, each at its place."""
    errors = getattr(error, "errors", None)
    if not callable(errors):
        yield Finding(name, *_said(name, value, error))
        return
    found = []
    for one in errors():
        parts = [str(part) for part in one["loc"]]
        path = parts[1:] if parts[:1] == [name] else parts
        given, is_there = _at(value, path)
        if name == "zero_optimization" and path == ["stage"]:
            continue  # check_zero says it
        where = ".".join([name, *map(key_name, path)])
        if one["type"] in UNKNOWN:
            cure = meant(path[-1], _fields(error, parts), _at(value, path[:-1])[0] or {}) or "remove it"
            found.append(Finding(where, "DeepSpeed refuses a setting that it does not know", cure))
        elif is_there:
            found.append(Finding(where, f"{shown(given)} is refused by DeepSpeed", _lower(one["msg"])))
    yield from found


def _said(name: str, value: Any, error: Exception) -> tuple[str, str]:
    if isinstance(error, (TypeError, AttributeError, KeyError)):
        return f"DeepSpeed cannot read {shown(value)}", "write it as DeepSpeed's documentation has this section"
    return f"DeepSpeed refuses {shown(value)}", _lower(" ".join(str(error).split()).rstrip(". ")) or "change it"


def _lower(said: str) -> str:
    said = said.removeprefix("Value error, ").replace("Input should be", "it must be")
    return said.replace("0, 1, 2, 3 or 3", "0, 1, 2 or 3")


def _at(value: Any, path: Iterable[str]) -> tuple[Any, bool]:
    """What stands at a path in a section, and whether anything does."""
    for part in path:
        if not isinstance(value, Mapping) or part not in value:
            return None, False
        value = value[part]
    return value, True


def _fields(error: Any, path: list[str]) -> set[str]:
    """Names that the section has in which a name was not known; empty where that cannot be told."""
    model = getattr(error, "model", None) or _called(str(getattr(error, "title", "")))
    for part in path[:-1]:
        wanted = _of(model).get(part)
        model = next((one for one in _types(getattr(wanted, "annotation", None)) if _of(one)), None)
    fields = _of(model)
    aliases = {str(one.alias) for one in fields.values() if getattr(one, "alias", None)}
    return {*fields} | aliases


def _called(title: str) -> Any:
    """DeepSpeed's model of this name."""
    from deepspeed.runtime.config_utils import DeepSpeedConfigModel

    return next((one for one in _subclasses(DeepSpeedConfigModel) if one.__name__ == title), None)


def _of(model: Any) -> dict[str, Any]:
    return dict(getattr(model, "model_fields", None) or getattr(model, "__fields__", None) or {}) if model else {}


def _types(annotation: Any) -> Iterator[Any]:
    yield annotation
    for part in typing.get_args(annotation):
        yield from _types(part)


def _subclasses(kind: Any) -> Iterator[Any]:
    for one in kind.__subclasses__():
        yield one
        yield from _subclasses(one)
