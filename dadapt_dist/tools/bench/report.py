"""Measurements as a table, as JSON with the facts of the machine, as markdown and as a plot."""

import json
import math
import os
import platform
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

Row = dict[str, Any]


@dataclass
class Report:
    """One measurement. columns: key of a row -> (heading, format). notes: what a reader must know to believe it."""

    title: str
    columns: dict[str, tuple[str, str]]
    rows: list[Row] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def text(self, row: Row, key: str) -> str:
        value = row.get(key)
        return "" if value is None else format(value, self.columns[key][1])

    def show(self, console: Console) -> None:
        """Print the table with its notes."""
        table = Table(title=self.title, title_justify="left")
        for key, (heading, form) in self.columns.items():
            uncut = [*heading.split(), *(self.text(row, key) for row in self.rows)]  # a figure or a word is never cut
            table.add_column(heading, justify="right" if form else "left", min_width=max(map(len, uncut)))
        for row in self.rows:
            table.add_row(*[self.text(row, key) for key in self.columns])
        console.print(table)
        for note in self.notes:
            console.print(note)

    def markdown(self) -> str:
        """The table for a document."""
        heads = [heading for heading, _ in self.columns.values()]
        lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
        lines += ["| " + " | ".join(self.text(row, key) for key in self.columns) + " |" for row in self.rows]
        return "\n".join(lines)

    def write(self, path: Path) -> None:
        """JSON, whole or not at all."""
        content = {"title": self.title, "facts": machine() | self.facts, "notes": self.notes, "rows": self.rows}
        part = path.with_name(path.name + ".part")
        part.write_text(json.dumps(content, indent=1) + "\n")
        part.replace(path)

    def plot(self, path: Path, labels: Sequence[str], key: str) -> None:
        """A bar for each row, as long as its `key`, named by its `labels`."""
        import matplotlib as mpl

        mpl.use("Agg")
        from matplotlib import pyplot as plt

        rows = [row for row in self.rows if row.get(key) is not None]
        figure, axes = plt.subplots(figsize=(8, 1 + 0.35 * len(rows)))
        axes.barh(range(len(rows)), [row[key] for row in rows])
        axes.set_yticks(range(len(rows)), [self._label(row, labels) for row in rows])
        axes.invert_yaxis()
        axes.set_xlabel(self.columns[key][0])
        axes.set_title(self.title)
        figure.tight_layout()
        figure.savefig(path)
        plt.close(figure)

    def _label(self, row: Row, labels: Sequence[str]) -> str:
        return ", ".join(text for text in (self.text(row, key) for key in labels) if text)


def ninety(times: Sequence[float]) -> float:
    """The least of `times` that 90 % of them do not exceed."""
    return sorted(times)[math.ceil(0.9 * len(times)) - 1]


def machine() -> dict[str, Any]:
    """What a figure depends on beside the code."""
    return {
        "command": " ".join(["dadapt-dist", *sys.argv[1:]]),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load": [round(x, 2) for x in os.getloadavg()] if hasattr(os, "getloadavg") else None,
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
