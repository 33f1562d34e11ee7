"""What takes part in a comparison: optimizers by name with options, untuned or at every learning rate of a grid."""

import inspect
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.optim import Optimizer

from ...methods.registry import METHODS, class_name, flag_name, names_of
from ...options.typed import split_at_commas, typed_options
from ..suite.rates import parse_rates
from ..suite.users import imported
from ..suite.variants import SCHEDULES, Variant

SCHEDULE_NAMES = ("constant", *SCHEDULES, "cosine")
RATES = "1e-4..1x9"
_FUNCTION = re.compile(r"(?P<name>[\w.]+:\w+)(?::(?P<options>.*))?")


@dataclass(frozen=True)
class Contender:
    """A row of the table.

    label: as typed, without a grid. rates: the learning rate of each variant, by its name; empty for one that is not tuned.
    """

    label: str
    variants: tuple[Variant, ...]
    rates: Mapping[str, float]

    @property
    def schedule(self) -> str:
        """That of all its runs."""
        return self.variants[0].schedule


def untuned(text: str, schedule: str) -> Contender:
    """The contender of `--method NAME[:option=value,...]`, in one run a seed.

    schedule: for one that says none, has none of its own (total_steps) and does without one (Schedule-Free).
    Raises ValueError for a name that nobody has, or options that cannot be read.
    """
    optimizer, options = _read(text, "--method")
    return Contender(text, (_variant(text, optimizer, options, schedule),), {})


def tuned(text: str, schedule: str, rates: str) -> Contender:
    """The contender of `--tuned NAME[:option=value,...]`, at every rate of `rates`, or of its own option lr."""
    optimizer, options = _read(text, "--tuned")
    own = options.pop("lr", None)
    label = text if own is None else _without_lr(text)
    grid = parse_rates(rates, "--rates") if own is None else parse_rates(str(own), f"--tuned {text}: lr")
    named = {f"{label} at {rate:.6g}": rate for rate in grid}
    variants = (_variant(name, optimizer, {**options, "lr": rate}, schedule) for name, rate in named.items())
    return Contender(label, tuple(variants), named)


def check_schedule(name: str, flag: str) -> str:
    """The name of a schedule, or the absolute path of its file; ValueError for neither."""
    if name in SCHEDULE_NAMES:
        return name
    if Path(name).suffix == ".json":
        return str(Path(name).resolve())
    raise ValueError(f"{flag} {name} must be {', '.join(SCHEDULE_NAMES)}, or a schedule file that ends in .json")


def _variant(name: str, optimizer: str, options: dict[str, Any], schedule: str) -> Variant:
    given = options.get("schedule")
    rest = {key: value for key, value in options.items() if key != "schedule"}
    if given == "own":
        return Variant(name, optimizer, rest, "own")
    if given is not None:
        return Variant(name, optimizer, rest, check_schedule(str(given), f"{name}: schedule"))
    if rest.get("recipe") is not None:
        return Variant(name, optimizer, rest, "own")
    if rest.get("total_steps") is not None or _averages(optimizer):
        return Variant(name, optimizer, rest, "constant")
    return Variant(name, optimizer, rest, schedule)


def _averages(optimizer: str) -> bool:
    """Whether a method is judged at other weights than it trains, an average that takes the place of a schedule."""
    return any(optimizer in names_of(method) and method.has_modes for method in METHODS.values())


def _read(text: str, flag: str) -> tuple[str, dict[str, Any]]:
    """The optimizer, as `Variant` knows it, and its options."""
    name, _, rest = text.partition(":")
    known = {**_of_torch(), **_of_methods()}
    optimizer = known.get(name.lower().replace("-", "_"))
    if optimizer is None:
        function = _FUNCTION.fullmatch(text)
        if function is None or "=" in text.split(":")[1]:
            names = ", ".join([*map(flag_name, METHODS.values()), *_of_torch()])
            raise ValueError(f"{flag} {text}: no optimizer is called {name!r}; give module:function, or one of {names}")
        optimizer, rest = function["name"], function["options"] or ""
        imported(optimizer, flag, "(parameters, total_steps)")
    return optimizer, typed_options(rest, f"{flag} {text}")


def _without_lr(text: str) -> str:
    """The text of a contender without its option lr: runs at one rate have one name, whatever the grid."""
    head, colon, rest = text.rpartition(":")
    kept = ",".join(part for part in split_at_commas(rest) if part.partition("=")[0].strip() != "lr")
    return f"{head}{colon}{kept}" if kept else head


def _of_methods() -> dict[str, str]:
    """The class of each method by the names that it has."""
    names = {method.name: class_name(method) for method in METHODS.values()}
    return {found.lower(): found for method in METHODS.values() for found in names_of(method)} | names


def _of_torch() -> dict[str, str]:
    """torch's optimizers that step without a closure, by their names in lower case."""
    found = {}
    for name, cls in sorted(vars(torch.optim).items()):
        if isinstance(cls, type) and issubclass(cls, Optimizer) and cls.__module__.startswith("torch.optim."):
            closure = inspect.signature(cls.step).parameters.get("closure")
            if cls is not Optimizer and closure is not None and closure.default is not inspect.Parameter.empty:
                found[name.lower()] = f"torch.optim.{name}"
    return found
