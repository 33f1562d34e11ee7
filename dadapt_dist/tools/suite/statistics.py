"""Figures of the report: how far each variant is above the best learning rate of AdamW, task by task."""

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from .variants import SCHEDULES, rate, rate_of

# (task, variant) to the loss of each seed.
Losses = Mapping[tuple[str, str], Mapping[int, float]]


@dataclass(frozen=True)
class Best:
    """AdamW's best row on a task: its mean loss over the seeds and their standard deviation (n - 1).

    at_edge: its learning rate is the lowest or highest that was measured, so a better one may lie outside.
    """

    row: str
    mean: float
    sd: float
    at_edge: bool


@dataclass(frozen=True)
class Row:
    """A variant over tasks. excess: its mean loss over AdamW's best, less 1. within: at most one sd above it."""

    name: str
    excess: Mapping[str, float] = field(default_factory=dict)
    within: Mapping[str, bool] = field(default_factory=dict)

    def mean(self, tasks: Iterable[str] | None = None) -> float:
        """Geometric mean of the ratios of losses, less 1, over the tasks measured; NaN for none."""
        values = [self.excess[task] for task in (self.excess if tasks is None else tasks) if task in self.excess]
        return math.exp(statistics.fmean(math.log1p(value) for value in values)) - 1 if values else math.nan

    def worst(self) -> tuple[str, float]:
        """The task with the largest excess, and it."""
        task = max(self.excess, key=lambda name: self.excess[name])
        return task, self.excess[task]


def complete(losses: Losses, task: str, variant: str, seeds: Sequence[int]) -> list[float] | None:
    """Losses of all seeds in their order; None where one is missing."""
    found = losses.get((task, variant), {})
    return [found[seed] for seed in seeds] if all(seed in found for seed in seeds) else None


def grid_rows(losses: Losses, task: str, baseline: str, seeds: Sequence[int]) -> dict[str, list[float]]:
    """AdamW's rows of a baseline on a task that have all seeds."""
    names = sorted({name for found, name in losses if found == task and (rate_of(name) or ("",))[0] == baseline})
    rows = {name: complete(losses, task, name, seeds) for name in names}
    return {name: values for name, values in rows.items() if values is not None}


def best(losses: Losses, task: str, baseline: str, seeds: Sequence[int]) -> Best | None:
    """The row of AdamW with the lowest mean over the seeds; None where no row has them all."""
    rows = grid_rows(losses, task, baseline, seeds)
    return lowest(rows, {row: rate(row) for row in rows}) if rows else None


def lowest(rows: Mapping[str, Sequence[float]], rates: Mapping[str, float]) -> Best:
    """The row with the lowest mean of its losses, one of each seed. rates: the learning rate of each row; {}: no grid."""
    name = min(rows, key=lambda row: statistics.fmean(rows[row]))
    measured = sorted({*rates.values()})
    edge = len(measured) > 1 and rates[name] in (measured[0], measured[-1])
    mean = statistics.fmean(rows[name])
    deviation = statistics.stdev(rows[name]) if len(rows[name]) > 1 and math.isfinite(mean) else 0.0
    return Best(name, mean, deviation, edge)


@dataclass(frozen=True)
class Paired:
    """Losses against others of the same seeds. mean: of the differences; error: its standard error; lower: in how many seeds."""

    mean: float
    error: float
    lower: int
    seeds: int


def paired(losses: Sequence[float], others: Sequence[float]) -> Paired | None:
    """Differences of finite losses, seed by seed; None where one is not finite."""
    if not all(map(math.isfinite, (*losses, *others))):
        return None
    differences = [loss - other for loss, other in zip(losses, others, strict=True)]
    n = len(differences)
    error = statistics.stdev(differences) / math.sqrt(n) if n > 1 else math.nan
    return Paired(statistics.fmean(differences), error, sum(d < 0 for d in differences), n)


def compare(losses: Losses, name: str, variant: str, bests: Mapping[str, Best], seeds: Sequence[int]) -> Row:
    """The row `name` of the table: `variant` against the best of the same seeds on each task of `bests` that it has run."""
    excess, within = {}, {}
    for task, reference in bests.items():
        values = complete(losses, task, variant, seeds)
        if values is not None:
            mean = statistics.fmean(values)
            excess[task] = mean / reference.mean - 1
            within[task] = mean <= reference.mean + reference.sd
    return Row(name, excess, within)


def hindsight(losses: Losses, baseline: str, bests: Mapping[str, Best], seeds: Sequence[int]) -> Row | None:
    """AdamW at the one learning rate and schedule that is best over all tasks of `bests`, among rates that all have."""
    per_task = [set(grid_rows(losses, task, baseline, seeds)) for task in bests]
    shared = sorted(set.intersection(*per_task)) if per_task else []
    rows = [compare(losses, f"{name}, the best single rate in hindsight", name, bests, seeds) for name in shared]
    return min(rows, key=lambda row: row.mean()) if rows else None


def usual_rate(losses: Losses, baseline: str, bests: Mapping[str, Best], seeds: Sequence[int]) -> Row | None:
    """AdamW at 1e-3, with the schedule that suits it better."""
    rows = [compare(losses, name, name, bests, seeds) for name in (f"{baseline} 0.001 {s}" for s in SCHEDULES)]
    rows = [row for row in rows if row.excess]
    most = max((len(row.excess) for row in rows), default=0)
    return min((row for row in rows if len(row.excess) == most), key=lambda row: row.mean(), default=None)
