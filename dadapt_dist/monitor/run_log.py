"""Read the log of a run as it grows, whatever happens to the file meanwhile."""

import json
import os
from pathlib import Path
from typing import BinaryIO

from ..files.bounded_read import open_regular
from .columns import Columns

__all__ = ["RunLog"]

LOG_NAME = "metrics.jsonl"
MOST_FAULTS = 1000
CHUNK = 1 << 22
MOST_LINE = 1 << 24
MARK = 1024  # bytes before the place read so far, by which a file that was written anew is known


class RunLog:
    """The numbers of a JSONL log, read as it grows: `refresh` reads what was added.

    A line that is not finished yet is waited for; one in the middle that is no JSON object is left out and named in `faults`.
    A file that was truncated or replaced is read again from its beginning. Where its steps go on from those already read, as
    after a log was rotated, these are kept.

    Args:
        path: The file.
        name: What the run is called on screens; unless given, the folder of a metrics.jsonl, or the name of the file.
    """

    kind = "JSONL"

    def __init__(self, path: str | os.PathLike[str], name: str | None = None) -> None:
        self.path = Path(path)
        self.name = name or _name(self.path)
        self.columns = Columns()
        self.faults: list[str] = []
        self.torn = False
        """Does the log end in a line that is not finished?"""
        self._identity: tuple[int, int] | None = None
        self._offset = self._line = 0
        self._mark = b""
        self._part = b""
        self._anew = False

    def refresh(self) -> bool:
        """Read what was added; returns whether anything was.

        Raises:
            OSError: The file cannot be read.
            ValueError: It is no regular file, or a line is longer than 16 MiB.
        """
        with open_regular(self.path) as file:
            status = os.fstat(file.fileno())
            identity = (status.st_dev, status.st_ino)
            if identity != self._identity or status.st_size < self._offset or not self._is_the_same(file):
                self._begin(identity)
            file.seek(self._offset)
            before = self._offset
            while chunk := file.read(CHUNK):
                self._take(chunk)
        self.torn = bool(self._part.strip())
        return self._offset != before

    def _is_the_same(self, file: BinaryIO) -> bool:
        file.seek(self._offset - len(self._mark))
        return file.read(len(self._mark)) == self._mark

    def _begin(self, identity: tuple[int, int]) -> None:
        self._identity, self._offset, self._line = identity, 0, 0
        self._mark = self._part = b""
        self.faults, self._anew = [], True

    def _take(self, chunk: bytes) -> None:
        self._offset += len(chunk)
        self._mark = (self._mark + chunk)[-MARK:]
        *lines, self._part = (self._part + chunk).split(b"\n")
        for line in lines:
            self._line += 1
            if line.strip():
                self._read(line)
        if len(self._part) > MOST_LINE:
            raise ValueError(f"{self.path}, line {self._line + 1} is longer than {MOST_LINE >> 20} MiB: this is no log")

    def _read(self, line: bytes) -> None:
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            record = None
        if not isinstance(record, dict):
            return self._blame(f"{line[:40]!r} is no JSON object")
        if self._anew:
            self._anew = False
            self._join(record.get("step"))
        wrong = self.columns.add(record)
        return self._blame(wrong) if wrong else None

    def _join(self, step: object) -> None:
        """Keep the records of before only where the new file goes on after them."""
        if not isinstance(step, (int, float)) or not step > self.columns.last_step:
            self.columns.clear()

    def _blame(self, problem: str) -> None:
        if len(self.faults) < MOST_FAULTS:
            self.faults.append(f"{self.path}, line {self._line}: {problem}; it is left out")


def _name(path: Path) -> str:
    folder = path.resolve().parent.name
    return folder if path.name == LOG_NAME and folder else path.name
