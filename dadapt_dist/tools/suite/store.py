"""Results on disk: one JSON line for each finished run, so that a stopped suite goes on where it was."""

import json
import os
import platform
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from ...files.bounded_read import read_json_object
from ...files.whole_write import write_whole
from .train import Run

# Raised when a task, a grid or the training changes: results of two versions are not comparable.
VERSION = 1
Key = tuple[str, str, int]


def settings(length: str) -> dict[str, Any]:
    """What all runs of a folder share. length: "usual", "100 steps" or "0.5 of usual"."""
    return {"suite": VERSION, "length": length, **versions()}


def versions() -> dict[str, str]:
    """Those of what a run's losses depend on."""
    return {"python": platform.python_version(), "torch": torch.__version__}


class Store:
    """Records of a folder by (task, variant, seed).

    wanted: what all of its runs share. command: whose folder it is: <command>.json holds what is shared.

    Raises ValueError where the folder is another command's, of other settings, or no folder of the command at all.
    """

    def __init__(self, folder: Path, wanted: dict[str, Any], command: str = "suite") -> None:
        self.folder, self.records = folder, dict[Key, dict[str, Any]]()
        self._lines = folder / "runs.jsonl"
        head = folder / f"{command}.json"
        if head.exists():
            _compare(folder, read_json_object(head), wanted)
        elif folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise ValueError(f"--out {folder} exists and is no folder of the {command}: give a new one")
        else:
            folder.mkdir(parents=True, exist_ok=True)
            write_whole(head, json.dumps(wanted, indent=2) + "\n")
        for record in _read(self._lines):
            self.records[record["task"], record["variant"], record["seed"]] = record

    def missing(self, runs: Iterable[Run]) -> list[Run]:
        """Those without a record. Raises ValueError where a record's options or steps differ from the run's."""
        left = []
        for run in runs:
            record = self.records.get(run.key)
            if record is None:
                left.append(run)
            elif (record["how"], record["steps"]) != (run.variant.described(), run.steps):
                raise ValueError(
                    f"{self._lines} has {run.variant.name} on {run.task} as {record['how']}, {record['steps']} steps, not as "
                    f"{run.variant.described()}, {run.steps} steps: give another --out"
                )
        return left

    def add(self, record: dict[str, Any]) -> None:
        """Keep a record, in the file before anything else."""
        line = json.dumps(record) + "\n"
        with self._lines.open("ab+") as file:
            if file.tell() and not _ends_a_line(self._lines):
                line = "\n" + line  # a start that was killed while it wrote
            file.write(line.encode())
            file.flush()
            os.fsync(file.fileno())
        self.records[record["task"], record["variant"], record["seed"]] = record


def _compare(folder: Path, found: dict[str, Any], wanted: dict[str, Any]) -> None:
    differing = [f"{key} {found.get(key)!r}, not {value!r}" for key, value in wanted.items() if found.get(key) != value]
    if differing:
        raise ValueError(
            f"--out {folder} holds results of {'; '.join(differing)}: give another folder, or the same settings"
        )


def _read(lines: Path) -> list[dict[str, Any]]:
    """Records of the file; lines that are torn or no records are left out, and their runs are done again."""
    if not lines.exists():
        return []
    found = []
    for line in lines.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if isinstance(record, dict) and {"task", "variant", "seed", "loss", "how", "steps"} <= record.keys():
            found.append(record)
    return found


def _ends_a_line(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"
