"""Find the logs of runs by what users name: a file, or the folder of a run."""

import os
from collections.abc import Iterable
from pathlib import Path

from .event_files import EventLog
from .run_log import LOG_NAME, RunLog

__all__ = ["find_log", "open_run", "open_runs"]

EVENTS = "tfevents"


def find_log(path: str | os.PathLike[str]) -> Path:
    """The log that a path means: itself, or in a folder metrics.jsonl, its only .jsonl file, or TensorBoard's event files.

    Returns:
        A JSONL file, an event file, or the folder that holds event files.

    Raises:
        FileNotFoundError: There is nothing of that name.
        ValueError: A folder holds no log, or several.
    """
    path = Path(path)
    if not path.exists():
        if path.is_symlink():
            raise FileNotFoundError(f"{path} is a link that leads to no file: name the log of a run, or its folder")
        raise FileNotFoundError(f"{path} does not exist: name the log of a run, or its folder")
    if not path.is_dir():
        return path
    if (path / LOG_NAME).exists():
        return path / LOG_NAME
    logs: Iterable[Path] = sorted(path.glob("*.jsonl"))
    found = [*logs] or sorted({events.parent for events in path.rglob(f"*{EVENTS}*")})
    if len(found) == 1:
        return found[0]
    if not found:
        raise ValueError(f"{path} holds no {LOG_NAME}, no other .jsonl file and no event files: name the log of a run")
    listed = ", ".join(one.relative_to(path).as_posix() for one in found[:5])
    raise ValueError(f"{path} holds {len(found)} logs: name one of them ({listed}{', ...' if len(found) > 5 else ''})")


def open_run(path: str | os.PathLike[str], name: str | None = None) -> RunLog:
    """The log that a path means, with what it holds by now.

    Raises:
        ImportError: It is one of TensorBoard's, and tensorboard is not installed.
        OSError: It cannot be read.
        ValueError: As for `find_log`, or it is no regular file.
    """
    found = find_log(path)
    if found.is_dir() or EVENTS in found.name:
        log: RunLog = EventLog(found, name)
    else:
        log = RunLog(found, name)
    log.refresh()
    return log


def open_runs(paths: Iterable[str | os.PathLike[str]]) -> list[RunLog]:
    """The logs of several runs, each with a name of its own. Raises as `open_run`."""
    logs = [open_run(path) for path in paths]
    names = [log.name for log in logs]
    for log in logs:
        if names.count(log.name) > 1:
            log.name = str(log.path)
    return logs
