"""A finding of the doctor, and helpers that read settings from configs."""

import difflib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ...engine.diagnostics.advice_texts import LR, WARM_UP


@dataclass(frozen=True)
class Finding:
    """One setting: where it stands, what is wrong with it, and the cure.

    is_error: training fails or is wrong; otherwise it is only worse than it could be.
    """

    where: str
    problem: str
    cure: str
    is_error: bool = True


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


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name that is most like it; None where none is."""
    lower = {one.lower(): one for one in known}
    near = difflib.get_close_matches(name.lower(), list(lower), n=1)
    return lower[near[0]] if near else None


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
        yield Finding(where, problem, hint + WARM_UP.cure, is_error=False)
