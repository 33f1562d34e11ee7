"""Loop of `dadapt-dist watch`: read what was added to the logs, show it, wait."""

import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from ...monitor.find_runs import open_runs
from ...monitor.run_log import RunLog
from .view import view

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

LEAST, MOST = 0.1, 3600.0  # seconds between two looks
LOOKS = 10  # at a growing log, from which its speed is taken


def run_watch(
    paths: Sequence[Path],
    console: "Console",
    *,
    every: float = 2.0,
    once: bool = False,
    wait: Callable[[float], None] = time.sleep,
) -> int:
    """Show the runs until the user stops it, and return the exit code; only once where the output is no terminal.

    Raises:
        ImportError: A log is TensorBoard's, and tensorboard is not installed.
        OSError: A log cannot be read at the start. Later that is shown, and waited for.
        ValueError: An option is out of range, or a path is no log.
    """
    if not LEAST <= every <= MOST:
        raise ValueError(f"--every {every} must be from {LEAST} to {MOST:.0f} seconds")
    logs = open_runs(paths)
    if once or not console.is_terminal:
        console.print(_shown(logs, console))
        return 0
    with suppress(KeyboardInterrupt):
        _follow(logs, console, every, wait)
    return 0


def _follow(logs: Sequence[RunLog], console: "Console", every: float, wait: Callable[[float], None]) -> None:
    from rich.live import Live

    paces = [Pace() for _ in logs]
    with Live(_shown(logs, console), console=console, auto_refresh=False) as live:
        before: tuple[object, ...] = ()
        while True:
            wait(every)
            said = [reason for log in logs if (reason := refresh(log))]
            for log, pace in zip(logs, paces, strict=True):
                pace.note(log.columns.last_step, time.monotonic())
            now = (console.size, said, [(log.columns.last_step, len(log.faults)) for log in logs])
            if now != before:
                live.update(_shown(logs, console, said, [pace.rate for pace in paces]), refresh=True)
            before = now


class Pace:
    """The speed of a run as it is seen from outside, for a log that has no clock."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, float]] = deque(maxlen=LOOKS)

    def note(self, step: float, now: float) -> None:
        """Take note of the last step. now: seconds of a clock that never goes back."""
        if self._seen and step < self._seen[-1][0]:
            self._seen.clear()
        if not self._seen or step > self._seen[-1][0]:
            self._seen.append((step, now))

    @property
    def rate(self) -> float:
        """Steps per second; NaN before there are two looks that saw a step."""
        if len(self._seen) < 2:
            return math.nan
        (first, began), (last, ended) = self._seen[0], self._seen[-1]
        return (last - first) / (ended - began) if ended > began else math.nan


def refresh(log: RunLog) -> str | None:
    """Read what was added; returns why the log cannot be read now, if so: one that is rotated is gone for a moment."""
    try:
        log.refresh()
    except (OSError, ValueError) as error:
        return f"cannot be read now: {error}"
    return None


def _shown(
    logs: Sequence[RunLog], console: "Console", said: Sequence[str] = (), paces: Sequence[float] = ()
) -> "RenderableType":
    from rich.console import Group
    from rich.text import Text

    unicode = console.encoding.lower().startswith("utf")
    return Group(view(logs, console.width, unicode=unicode, paces=paces), *map(Text, said))
