"""What `dadapt-dist watch` shows of runs: the last values in a table, loss and d as lines of text, and what seems wrong."""

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from ...monitor import names
from ...monitor.columns import Series, span, speed
from ...monitor.diagnosis import diagnose
from ...monitor.run_log import RunLog
from ...monitor.without_d import CURE, instead_of_d, rate_label
from ..printable import printable
from .sparkline import ASCII, BLOCKS, sparkline

if TYPE_CHECKING:
    from rich.console import RenderableType

MOST_LINES = 4  # of d: a run may have an estimate for each tensor
MOST_NOTES = 6  # of a run
WIDER = 21  # letters more for the names of several runs
MARGIN = 32  # letters of a line beside its sparkline: a name before it, the first and the last value after it


def view(logs: Sequence[RunLog], width: int, *, unicode: bool = True, paces: Sequence[float] = ()) -> "RenderableType":
    """The present state of runs.

    Args:
        logs: The runs, as far as they were read.
        width: Letters in a line of the terminal.
        unicode: Can the terminal show block letters?
        paces: Steps per second of each run as seen from outside, for logs without a clock.
    """
    from rich.console import Group
    from rich.text import Text

    lines = [line for log in logs for line in _pictures(log, width, several=len(logs) > 1, unicode=unicode)]
    said = [note for log in logs for note in notes(log, several=len(logs) > 1)]
    return Group(_table(logs, paces or [math.nan] * len(logs)), *map(Text, lines), *map(Text, said))


def rows(log: RunLog, pace: float = math.nan) -> dict[str, str]:
    """The last values of a run by what they are called. pace: steps per second, where the log has no clock."""
    columns = log.columns
    own = speed(columns)
    values = {
        "step": f"{columns.last_step:.0f}" if columns else "-",
        "loss": _last(columns.loss),
        **{_label(log, name): _latest(log, name) for name in _rates(log)},
        "held steps": _latest(log, names.HELD_STEPS),
        "steps/s": _speed(pace if math.isnan(own) else own),
    }
    norms = {names.QUANTITIES[name].label: _latest(log, name) for name in names.NORMS if name in columns.series}
    return values | norms


def _rates(log: RunLog) -> tuple[str, ...]:
    return (names.EFFECTIVE_LR,) if instead_of_d(log.columns) else (names.D, names.EFFECTIVE_LR, names.ADAMW_LR)


def _label(log: RunLog, name: str) -> str:
    return rate_label(log.columns) if name == names.EFFECTIVE_LR else names.QUANTITIES[name].label


def notes(log: RunLog, *, several: bool) -> Iterator[str]:
    """What there is to say of a run: its log, what seems wrong, at most a few lines."""
    who = f"{log.name}: " if several else ""
    said = log.faults[-2:]
    instead = instead_of_d(log.columns)
    if instead:
        said.append(f"{who}{instead}")
    if log.columns and not instead and not log.columns.parts(names.D):
        said.append(f"{who}the log has no d: {CURE}")
    elif log.columns:
        said += [f"{who}{symptom}" for symptom in diagnose(log, is_over=False)]
    else:
        said.append(f"{who}no record with a step yet")
    yield from map(printable, said[:MOST_NOTES])


def _table(logs: Sequence[RunLog], paces: Sequence[float]) -> "RenderableType":
    from rich.table import Table
    from rich.text import Text

    table = Table(show_header=len(logs) > 1, box=None, pad_edge=False)
    for name in ["", *(log.name for log in logs)]:
        table.add_column(Text(printable(name)), overflow="fold")
    values = [rows(log, pace) for log, pace in zip(logs, paces, strict=True)]
    for label in dict.fromkeys(label for of_run in values for label in of_run):
        table.add_row(Text(label), *(Text(of_run.get(label, "-")) for of_run in values))
    return table


def _pictures(log: RunLog, width: int, *, several: bool, unicode: bool) -> Iterator[str]:
    shown: list[tuple[str, Series, bool]] = [("loss", log.columns.loss, False)]
    what, key = ("rate", names.EFFECTIVE_LR) if instead_of_d(log.columns) else ("d", names.D)
    parts = log.columns.parts(key)
    shown += [(f"{what} {part}".strip(), one, True) for part, one in list(parts.items())[:MOST_LINES]]
    for name, one, logarithmic in shown:
        if one.finite:
            who = printable(f"{log.name[:12]} {name[:14]}" if several else name[:24])
            blocks = BLOCKS if unicode else ASCII
            line = sparkline(
                one.values, max(width - MARGIN - (WIDER if several else 0), 8), logarithmic=logarithmic, blocks=blocks
            )
            yield f"{who:<{27 if several else 6}} {line} {one.finite[0]:.3g} to {one.finite[-1]:.3g}"


def _latest(log: RunLog, name: str) -> str:
    return span([one.last for one in log.columns.parts(name).values()])


def _last(one: Series) -> str:
    return span([one.last]) if len(one) else "-"


def _speed(found: float) -> str:
    return "-" if math.isnan(found) else f"{found:.3g}"
