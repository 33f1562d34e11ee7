"""Read TensorBoard's event files as the log of a run, where tensorboard is installed."""

import os
from pathlib import Path
from typing import Any

from . import names
from .run_log import RunLog

PREFIX = "train/"


class EventLog(RunLog):
    """The scalars of event files. A name loses the "train/" that trainers put before it.

    Args:
        path: An event file, or a folder that holds some.
        name: As for `RunLog`.

    Raises:
        ImportError: tensorboard is not installed.
    """

    kind = "TensorBoard"

    def __init__(self, path: str | os.PathLike[str], name: str | None = None) -> None:
        super().__init__(path, name)
        self._events: Any = _accumulator(self.path)
        self._seen: dict[str, int] = {}

    def refresh(self) -> bool:
        """Read what was added; returns whether anything was."""
        self._events.Reload()
        scalars = {tag: self._events.Scalars(tag) for tag in self._events.Tags()["scalars"]}
        counts = {tag: len(events) for tag, events in scalars.items()}
        if counts == self._seen:
            return False
        self._seen = counts
        self._fill(scalars)
        return True

    def _fill(self, scalars: dict[str, list[Any]]) -> None:
        by_step: dict[int, dict[str, float]] = {}
        start = min((events[0].wall_time for events in scalars.values() if events), default=0.0)
        for tag, events in scalars.items():
            for event in events:
                record = by_step.setdefault(int(event.step), {names.SECONDS: event.wall_time - start})
                record[tag.removeprefix(PREFIX)] = float(event.value)
        self.columns.clear()
        for step in sorted(by_step):
            self.columns.add({names.STEP: step, **by_step[step]})


def _accumulator(path: Path) -> Any:
    try:
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    except ImportError as error:
        cure = "pip install tensorboard, or log with dadapt_dist.monitor.JsonlWriter"
        raise ImportError(f"{path} is a log of TensorBoard, and reading it needs tensorboard: {cure}") from error
    return EventAccumulator(str(path), size_guidance={"scalars": 0})
