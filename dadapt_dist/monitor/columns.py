"""The numbers of a run, by name, as they are read from its log: cheap to grow, and ready to be drawn."""

import math
from array import array
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

from . import names

MOST_STEP = 2.0**53


class Series:
    """The values of one name over steps that ascend; NaN stands for what was not finite, or not written."""

    def __init__(self) -> None:
        self.steps, self.values = array("d"), array("d")

    def add(self, step: float, value: float) -> None:
        """Append a value, or replace the one of the same step."""
        if self.steps and self.steps[-1] == step:
            self.values[-1] = value
        else:
            self.steps.append(step)
            self.values.append(value)

    def cut(self, step: float) -> None:
        """Forget the values from this step on."""
        kept = bisect_left(self.steps, step)
        del self.steps[kept:], self.values[kept:]

    @property
    def last(self) -> float:
        """The latest value; NaN without one."""
        return self.values[-1] if self.values else math.nan

    @property
    def finite(self) -> list[float]:
        """The values that are finite."""
        return [value for value in self.values if math.isfinite(value)]

    def at(self, step: float) -> float:
        """The latest value at or before a step; NaN without one."""
        place = bisect_left(self.steps, step)
        if place == len(self.steps) or self.steps[place] > step:
            place -= 1
        return self.values[place] if place >= 0 else math.nan

    def thinned(self, most: int) -> "tuple[list[float], list[float]]":
        """Steps and values, at most about `most` of them: of each equal share the least and the greatest, in their order."""
        n = len(self.values)
        if n <= most:
            return list(self.steps), list(self.values)
        kept: set[int] = {0, n - 1}
        for first, last in _shares(n, max(most // 2, 1)):
            share = range(first, last)
            kept |= {min(share, key=self._low), max(share, key=self._high)}
        order = sorted(kept)
        return [self.steps[i] for i in order], [self.values[i] for i in order]

    def _low(self, place: int) -> float:
        value = self.values[place]
        return math.inf if math.isnan(value) else value

    def _high(self, place: int) -> float:
        value = self.values[place]
        return -math.inf if math.isnan(value) else value

    def __len__(self) -> int:
        return len(self.values)


class Columns:
    """All series of a run."""

    def __init__(self) -> None:
        self.series: dict[str, Series] = {}
        self.last_step = -1.0
        self.resumed: list[float] = []
        """Steps to which the log has gone back, because the run went on from a checkpoint; the later records count."""

    def __bool__(self) -> bool:
        return self.last_step >= 0

    def add(self, record: Mapping[str, Any]) -> str | None:
        """Take the numbers of a record; returns what is wrong with it, if anything. One without a step is passed over."""
        if names.STEP not in record:
            return None
        step = _number(record[names.STEP])
        if step is None or not 0 <= step < MOST_STEP:
            return f"its step is {str(record[names.STEP])[:40]!r}, no number from 0"
        if step < self.last_step:
            self.cut(step)
            self.resumed.append(step)
        self.last_step = step
        for name, value in record.items():
            number = _number(value)
            if number is not None and name != names.STEP:
                self.series.setdefault(name, Series()).add(step, number)
        return None

    def cut(self, step: float) -> None:
        """Forget everything from a step on."""
        for one in self.series.values():
            one.cut(step)
        self.series = {name: one for name, one in self.series.items() if len(one)}

    def clear(self) -> None:
        """Forget everything."""
        self.series, self.last_step, self.resumed = {}, -1.0, []

    def get(self, name: str) -> Series:
        """The series of a name; an empty one where there is none."""
        return self.series.get(name) or Series()

    def parts(self, name: str) -> dict[str, Series]:
        """The series of a name by group or estimate, "" for one without, as long as they hold any number that is finite."""
        found = {key: one for key, one in self.series.items() if names.base_name(key) == name}
        return {names.part_of(key): one for key, one in sorted(found.items()) if any(map(math.isfinite, one.values))}

    @property
    def loss(self) -> Series:
        """The loss, by whichever of its names the log has."""
        return next((self.series[name] for name in names.LOSSES if name in self.series), Series())


def speed(columns: Columns, records: int = 20) -> float:
    """Steps per second over the last records; NaN where the log has no clock, or it has just begun anew."""
    clock = columns.get(names.SECONDS)
    steps, seconds = list(clock.steps[-records:]), list(clock.values[-records:])
    while len(seconds) > 1 and any(not b >= a for a, b in pairwise(seconds)):
        steps, seconds = steps[1:], seconds[1:]
    took = seconds[-1] - seconds[0] if seconds else 0.0
    return (steps[-1] - steps[0]) / took if took > 0 else math.nan


def span(values: Sequence[float]) -> str:
    """The value that all of these are, or the least and the greatest; a dash where there is none."""
    known = [value for value in values if not math.isnan(value)]
    if not known:
        return "not finite" if len(values) else "-"
    low, high = f"{min(known):.4g}", f"{max(known):.4g}"
    return low if low == high else f"{low} to {high}"


def _number(value: Any) -> float | None:
    """A float, NaN for null; None for what is no number."""
    if value is None:
        return math.nan
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        return float(value)
    except OverflowError:
        return math.nan


def _shares(n: int, parts: int) -> Iterator[tuple[int, int]]:
    """`parts` neighbouring ranges that together are range(n); none is empty while parts is at most n."""
    for i in range(parts):
        yield i * n // parts, (i + 1) * n // parts
