"""Crash-safe log: one JSON object a line, flushed at once; a torn last line is dropped on resume."""

import json
import math
import os
from pathlib import Path
from typing import IO, Any

from ..files.bounded_read import read_bytes

__all__ = ["JsonlWriter", "read_jsonl"]
MOST_BYTES = 1 << 30


def read_jsonl(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """Return the records of a JSONL file, without a torn last line.

    Args:
        path: The file.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: A line other than the last is not a JSON object (the message names it), or the path is not a regular
            file of at most 1 GiB.

    Example:
        >>> [line["d"] for line in read_jsonl("run.jsonl")]  # doctest: +SKIP
    """
    return [record for _, record in read_numbered(path)]


def read_numbered(path: str | os.PathLike[str]) -> list[tuple[int, dict[str, Any]]]:
    """The records of a JSONL file with the numbers of their lines, from 1; raises as `read_jsonl`."""
    lines = read_bytes(path, MOST_BYTES).split(b"\n")
    records = []
    for number, line in enumerate(lines, start=1):
        if not line.strip() or number == len(lines):  # what follows the last newline was never finished
            continue
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError):
            entry = None
        if not isinstance(entry, dict):
            raise ValueError(f"{path}, line {number}: {line[:40]!r} is no JSON object; repair or delete the line")
        records.append((number, entry))
    return records


class JsonlWriter:
    """Append records to a file, one JSON object a line, each flushed at once. Only rank 0 writes.

    Non-finite floats are written as null, because JSON has none.

    Args:
        path: The file; its folder is created.
        rank: This process's rank. Ranks other than 0 may call every method and write nothing.
        resume_step: None starts an empty file. A number keeps the records whose "step" is at most this and drops later
            ones and a torn last line, so a run resumed from a checkpoint of that step logs no step twice.

    Raises:
        OSError: The file cannot be written.

    Example:
        >>> import os, tempfile
        >>> path = os.path.join(tempfile.mkdtemp(), "run.jsonl")
        >>> with JsonlWriter(path) as log:
        ...     log.write(step=1, loss=0.5, d=1e-3)
        >>> read_jsonl(path)
        [{'step': 1, 'loss': 0.5, 'd': 0.001}]
    """

    def __init__(self, path: str | os.PathLike[str], *, rank: int = 0, resume_step: int | None = None) -> None:
        self.path = Path(path)
        self._file: IO[str] | None = None
        if rank != 0:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        kept = [r for r in read_jsonl(self.path) if r["step"] <= resume_step] if self._goes_on(resume_step) else []
        # The new file replaces the old in one rename: a kill here leaves one or the other.
        part = self.path.with_name(self.path.name + ".part")
        part.write_text("".join(map(_line, kept)), encoding="utf-8")
        os.replace(part, self.path)
        self._file = self.path.open("a", encoding="utf-8")

    def _goes_on(self, resume_step: int | None) -> bool:
        return resume_step is not None and self.path.exists()

    def write(self, step: int, **numbers: Any) -> None:
        """Append {"step": step, **numbers} and flush it; numbers are what json takes."""
        if self._file is not None:
            self._file.write(_line({"step": step, **numbers}))
            self._file.flush()

    def close(self) -> None:
        """Close the file; a second call does nothing."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def __enter__(self) -> "JsonlWriter":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _line(entry: dict[str, Any]) -> str:
    finite = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in entry.items()}
    return json.dumps(finite, allow_nan=False) + "\n"
