"""The numbers of a report: runs side by side, and when steps were held and why."""

import math
from collections.abc import Sequence
from itertools import pairwise

from ...monitor import names
from ...monitor.columns import Series, span, speed
from ...monitor.run_log import RunLog
from ...monitor.without_d import rate_label

MOST_EVENTS = 100
SETTLED = 0.9  # of the last d


def comparison(logs: Sequence[RunLog]) -> list[list[str]]:
    """A row for each quantity, with a cell for each run; without those that no run has."""
    columns = [_figures(log) for log in logs]
    labels = dict.fromkeys(label for column in columns for label in column)
    rows = [[label, *(column.get(label, "-") for column in columns)] for label in labels]
    return [row for row in rows if any(cell != "-" for cell in row[1:])]


def held_events(log: RunLog) -> list[list[str]]:
    """Where in the log the count of held steps has risen: after which step, until which, by how many, why."""
    held, apart = log.columns.get(names.HELD_STEPS), log.columns.get(names.HELD_APART)
    points = [(0.0, 0.0), *zip(held.steps, held.values, strict=True)]
    events = []
    for (before, low), (step, high) in pairwise(points):
        if high > low:
            told = apart.at(step) - (apart.at(before) if apart.at(before) >= 0 else 0.0) if len(apart) else 0.0
            reason = names.HELD_BECAUSE[names.HELD_APART if told > 0 else names.HELD_STEPS]
            events.append([f"{before:.0f}", f"{step:.0f}", f"{high - low:.0f}", reason])
    return events[:MOST_EVENTS]


def _figures(log: RunLog) -> dict[str, str]:
    columns = log.columns
    loss, d = columns.loss, columns.parts(names.D)
    found = {"steps": f"{columns.last_step:.0f}", "records": str(max(map(len, columns.series.values())))}
    if loss.finite:
        least = min(loss.finite)
        where = loss.steps[loss.values.index(least)]
        found |= {"first loss": f"{loss.finite[0]:.4g}", "last loss": span([loss.last])}
        found["least loss"] = f"{least:.4g} at step {where:.0f}"
    found["first d"] = span([one.finite[0] for one in d.values()])
    found["last d"] = span([one.last for one in d.values()])
    found["d at 90 % of its last value"] = (
        ", ".join(sorted({f"step {_settled(one):.0f}" for one in d.values()})[:3]) or "-"
    )
    for name in (names.EFFECTIVE_LR, names.ADAMW_LR):
        label = rate_label(columns) if name == names.EFFECTIVE_LR else names.QUANTITIES[name].label
        parts = columns.parts(name).values()
        found[f"largest {label}"] = span([max(one.finite) for one in parts])
        found[f"last {label}"] = span([one.last for one in parts])
    for name in names.NORMS:
        label = names.QUANTITIES[name].label
        found[f"last {label}"] = span([one.last for one in columns.parts(name).values()])
    found["held steps"] = span([one.last for one in columns.parts(names.HELD_STEPS).values()])
    clock = columns.get(names.SECONDS).finite
    found["seconds"] = f"{clock[-1]:.4g}" if clock else "-"
    pace = speed(columns)
    found["steps per second, at the end"] = "-" if math.isnan(pace) else f"{pace:.3g}"
    return found


def _settled(one: Series) -> float:
    """The first step from which on d was at most a tenth below its last value."""
    last = one.finite[-1]
    below = [step for step, value in zip(one.steps, one.values, strict=True) if value < SETTLED * last]
    return min((step for step in one.steps if not below or step > below[-1]), default=one.steps[-1])
