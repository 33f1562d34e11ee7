"""A finding of the doctor, and helpers that read settings from configs."""

import difflib
import json
from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ...engine.diagnostics.advice_texts import LR, WARM_UP

MOST_SHOWN = 60  # letters of a value


@dataclass(frozen=True)
class Finding:
    """One setting: where it stands, what is wrong with it, and the cure.

    is_error: training fails or is wrong; otherwise it is only worse than it could be. is_note: neither; it has to be known.
    """

    where: str
    problem: str
    cure: str
    is_error: bool = True
    is_note: bool = False

    def __str__(self) -> str:
        mark = "note" if self.is_note else "wrong" if self.is_error else "better"
        return f"{mark}: {self.where}: {self.problem}; {self.cure}"


Findings = Iterator[Finding]
Config = Mapping[str, Any]


def section(config: Config, *names: str) -> Config:
    """The mapping under these names; an empty one where there is none."""
    found: Any = config
    for name in names:
        found = found.get(name) if isinstance(found, Mapping) else None
    return found if isinstance(found, Mapping) else {}


def number(value: Any) -> float | None:
    """A number, also where a file has it as text; None for "auto" and whatever else is none."""
    try:
        return None if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        return None


def is_off(value: Any) -> bool:
    """Return whether a setting is false, or text that means false."""
    return value is False or str(value).lower() in ("false", "no", "0")


def is_on(value: Any) -> bool:
    """Return whether a setting is there and not false; a section is on unless its "enabled" is false, "auto" counts as off."""
    if isinstance(value, Mapping):
        return is_on(value.get("enabled", True))
    return bool(value) and value != "auto" and not is_off(value)


def shown(value: Any) -> str:
    """A value as it stands in a JSON file, cut where it is long."""
    try:
        text = json.dumps(value, default=str)
    except (TypeError, ValueError, RecursionError):
        text = repr(value)
    return text if len(text) <= MOST_SHOWN else f"{text[:MOST_SHOWN]}..."


def key_name(key: Any) -> str:
    """A key of a file, as it can stand in a line; YAML has keys that are no texts."""
    return key[:MOST_SHOWN] if isinstance(key, str) and key.strip() else shown(key)


def nearest(name: str, known: Iterable[str], cutoff: float = 0.6) -> str | None:
    """The known name that is most like it; None where none is. cutoff: how like, from 0 to 1.

    One that begins each of its words the same way goes first: warmup_step is nearer to warmup_num_steps than to warmup_type.
    """
    lower = {one.lower(): one for one in known}
    near = difflib.get_close_matches(name.lower(), list(lower), n=3, cutoff=cutoff)
    words = name.lower().split("_")
    near.sort(key=lambda one: not all(any(part.startswith(word) for part in one.split("_")) for word in words))
    return lower[near[0]] if near else None


def meant(name: Any, known: Iterable[str], present: Container[Any], cutoff: float = 0.6) -> str | None:
    """A cure for a name that is not known: the one that is most like it; None where none is."""
    near = nearest(str(name), known, cutoff)
    if near is None:
        return None
    return f"remove it: {near} is there, too" if near in present else f"did you mean {near}?"


def suggested(name: str, known: Iterable[str]) -> str:
    """A question after the known name that is most like it; nothing where none is."""
    near = nearest(name, known)
    return f"did you mean {near}? " if near else ""


def check_multiplier(where: str, value: Any, what: str = "it") -> Findings:
    """The learning rate of a learning-rate-free optimizer multiplies d: it is 1.0."""
    lr = number(value)
    if lr is not None and LR.is_made(lr):
        yield Finding(where, LR.problem.format(what=what, lr=lr), LR.cure)


def check_warm_up(where: str, steps: Any, safeguarded: bool | None) -> Findings:
    """A schedule that begins near 0. safeguarded: None where it is not known."""
    if number(steps) and WARM_UP.is_made(0.0, 1.0, safeguarded):
        hint = "" if safeguarded is False else "if the optimizer is Prodigy, "
        problem = WARM_UP.problem.format(how=f"{where.rpartition('.')[2]} {steps}")
        if safeguarded is None:
            problem = problem.replace("safeguard_warmup is False", "safeguard_warmup may be False")
        yield Finding(where, problem, hint + WARM_UP.cure, is_error=False)
