"""Logs of runs as they come about: whole, torn, empty, without d, with several estimates."""

import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any


def record(step: int, steps: int, **changed: Any) -> dict[str, Any]:
    """The record of a run in which all is well: d grows a thousandfold in the first tenth, the loss falls, lr decays."""
    grown = 1e-6 * 10 ** (3 * min(1.0, 10 * step / steps))
    rate = grown * (1 - (step - 1) / steps)
    values = {
        "lr": 1.0,
        "d": grown,
        "effective_lr": rate,
        "adamw_lr": 3 * rate,
        "held_steps": 0.0,
        "seconds": 0.5 * step,
    }
    return {"step": step, "loss": 0.2 + 3 / (1 + 10 * step / steps), **values, "grad_norm": 1.0, **changed}


def records(steps: int = 300, **changed: Any) -> list[dict[str, Any]]:
    """Records of all steps. changed: a value, or a function of the step; None takes the name away."""
    made = []
    for step in range(1, steps + 1):
        new = {name: value(step) if callable(value) else value for name, value in changed.items()}
        whole = record(step, steps, **new)
        made.append({name: value for name, value in whole.items() if value is not None})
    return made


def write(path: Path, lines: Iterable[dict[str, Any]], *, after: str = "") -> Path:
    """Write a log. after: what follows the last line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(map(line, lines)) + after, encoding="utf-8")
    return path


def line(entry: dict[str, Any]) -> str:
    """A line as JsonlWriter writes it: null for what is not finite."""
    plain = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in entry.items()}
    return json.dumps(plain) + "\n"
