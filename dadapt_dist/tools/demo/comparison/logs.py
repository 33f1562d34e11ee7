"""Read the logs of a comparison's runs, and say in how far their d is the same."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ....files.bounded_read import read_json_object
from ....monitor import read_jsonl
from ..settings import DTYPES
from .plan import BASE, RELEASED, REVERSED, Comparison, Run

DIGITS = 17  # tell any two float64 numbers apart


@dataclass(frozen=True)
class Trace:
    """A run's d at every step, on how many ranks it had the bits of rank 0, and the held-out loss in bits per byte."""

    name: str
    ranks: int
    steps: tuple[int, ...]
    d: tuple[float, ...]
    same_on: tuple[int, ...]
    held_out: float

    @property
    def is_same_on_all(self) -> bool:
        """Whether all ranks had the same d, bit for bit, at every step."""
        return min(self.same_on) == self.ranks

    def deviations(self, base: "Trace") -> list[float]:
        """|d/d_base - 1| at every step."""
        return [abs(mine / theirs - 1) for mine, theirs in zip(self.d, base.d, strict=True)]


@dataclass(frozen=True)
class Group:
    """The runs in one dtype: on one process, the same with reversed rows, and under the layouts."""

    dtype: str
    base: Trace
    reordered: Trace
    layouts: tuple[Trace, ...]

    @property
    def largest(self) -> float:
        """The largest relative difference of a layout's d from that of one process."""
        return max(max(trace.deviations(self.base)) for trace in self.layouts)

    def shared(self, place: int) -> tuple[str, int]:
        """The digits of d that one process and all layouts share at a place of the log, and their number."""
        return shared_digits([trace.d[place] for trace in (self.base, *self.layouts)])


@dataclass(frozen=True)
class Released:
    """d of prodigyopt's own class: at every step on one process, and on each rank under FSDP2."""

    version: str
    alone: tuple[float, ...]
    ranks: tuple[tuple[float, ...], ...]


def read_groups(plan: Comparison) -> list[Group]:
    """The runs of a comparison by dtype. Raises ValueError for logs of different steps or without d."""
    groups = []
    for dtype in reversed(DTYPES):
        traces = {run.name: read_trace(run) for run in plan.runs() if run.dtype == dtype}
        if not traces:
            continue
        base = traces.pop(BASE)
        for trace in traces.values():
            if trace.steps != base.steps:
                folder = plan.folder / dtype / trace.name
                raise ValueError(f"{folder}: its log has other steps than that of {BASE}; start anew with --overwrite")
        groups.append(Group(dtype, base, traces.pop(REVERSED), tuple(traces.values())))
    return groups


def read_trace(run: Run) -> Trace:
    """What the folder of a finished run holds."""
    folder = run.settings.folder
    records = read_jsonl(folder / "metrics.jsonl")
    try:
        columns = [(int(r["step"]), float(r["d"]), int(r["ranks_with_same_d"])) for r in records]
        steps, d, same_on = zip(*columns, strict=True)
        bits = float(read_json_object(folder / "result.json")["held_out_bits_per_byte"])
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{folder} is not what a comparison wrote ({error!r}); start anew with --overwrite") from error
    return Trace(run.name, run.settings.nproc, steps, d, same_on, bits)


def read_released(folder: Path) -> Released | None:
    """The runs of prodigyopt's own class, if there are any."""
    alone, sharded = (folder / RELEASED / f"{name}.json" for name in (BASE, "fsdp2"))
    if not (alone.is_file() and sharded.is_file()):
        return None
    one, several = read_json_object(alone), read_json_object(sharded)
    ranks = tuple(zip(*several["d"], strict=True))
    return Released(one["version"], tuple(d for (d,) in one["d"]), ranks)


def shared_digits(values: Sequence[float]) -> tuple[str, int]:
    """The leading digits that all numbers share, of 17, as "2.71...e-02", and how many they are; ("", 0) for none."""
    texts = [f"{value:.{DIGITS - 1}e}" for value in values]
    if len(set(texts)) == 1:
        return repr(values[0]), DIGITS
    mantissas, exponents = zip(*(text.split("e") for text in texts), strict=True)
    if len(set(exponents)) > 1:
        return "", 0
    letters = zip(*mantissas, strict=True)
    count = next(i for i, column in enumerate(letters) if len(set(column)) > 1)
    shared = mantissas[0][:count].rstrip(".")
    return (f"{shared}e{exponents[0]}" if shared else ""), sum(letter.isdigit() for letter in shared)


def telling_places(d: Sequence[float], most: int = 6) -> list[int]:
    """Places of a log at which to show d: the first, some at which it has just moved, and the last."""
    moved = [i for i in range(1, len(d) - 1) if d[i] != d[i - 1]]
    between = min(most - 2, len(moved))
    chosen = {moved[round(i * (len(moved) - 1) / max(between - 1, 1))] for i in range(between)}
    return sorted({0, *chosen, len(d) - 1})
