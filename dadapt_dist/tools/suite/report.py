"""The report of a folder: report.md with the tables, results.json with all figures, pictures of the U-curves."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...files.whole_write import write_whole
from .catalogue import DEEP, HALVES, TASKS
from .logistic import LOGISTIC
from .pictures import draw
from .statistics import Best, Losses, Row, best, compare, hindsight, usual_rate
from .task import LARGEST_LOSS
from .variants import BASELINES, VARIANTS, rate_of

HOW = f"""\
Loss of each variant, in % above the best of AdamW's rates and schedules on that task: the one of lowest mean loss over the
same seeds. *mean* is the geometric mean of the ratios. *within* counts tasks whose mean loss is at most one standard
deviation (of the seeds of AdamW's best, n - 1) above AdamW's best. A run whose loss is not finite or above {LARGEST_LOSS:g}
counts with {LARGEST_LOSS:g}. `*` marks a task within one standard deviation; `-` one that was not run.
"""


MOST_COLUMNS = 12  # of a table of single tasks


@dataclass(frozen=True)
class Table:
    """Rows over the tasks of one half; bests: AdamW's best by baseline and task."""

    title: str
    tasks: list[str]
    bests: dict[str, dict[str, Best]]
    rows: list[Row]


def report(
    folder: Path, records: Iterable[Mapping[str, Any]], settings: Mapping[str, Any], seeds: Sequence[int]
) -> list[Path]:
    """Write the report of all records with these seeds; returns the files, report.md first."""
    kept = [record for record in records if record["seed"] in seeds]
    losses: dict[tuple[str, str], dict[int, float]] = {}
    for record in kept:
        losses.setdefault((record["task"], record["variant"]), {})[record["seed"]] = record["loss"]
    tables = [_table(title, names, losses, seeds) for title, names in _parts().items()]
    tables = [table for table in tables if table.rows]
    write_whole(folder / "results.json", json.dumps(_figures(tables, kept, settings, seeds), indent=1) + "\n")
    write_whole(folder / "report.md", "\n".join([_head(settings, seeds, kept), *map(_markdown, tables)]) + "\n")
    return [folder / "report.md", folder / "results.json", *_pictures(folder, losses, seeds)]


def _parts() -> dict[str, list[str]]:
    return {
        "Reported half": HALVES["reported"],
        "Half that settings were chosen on": HALVES["chosen on"],
        "All tasks": list(TASKS),
    }


def _table(title: str, names: list[str], losses: Losses, seeds: Sequence[int]) -> Table:
    found = {base: {task: best(losses, task, base, seeds) for task in names} for base in BASELINES}
    bests = {base: {task: b for task, b in row.items() if b is not None} for base, row in found.items()}
    tasks = [task for task in names if any(task in row for row in bests.values())]
    variants = dict.fromkeys(variant for _, variant in losses if rate_of(variant) is None)
    rows = [compare(losses, name, name, bests[_baseline(name)], seeds) for name in sorted(variants, key=_order)]
    for base, row in bests.items():
        rows += [made for made in (hindsight(losses, base, row, seeds), usual_rate(losses, base, row, seeds)) if made]
    return Table(title, tasks, bests, [row for row in rows if row.excess])


def _baseline(name: str) -> str:
    return VARIANTS[name].baseline if name in VARIANTS else "adamw"


def _order(name: str) -> int:
    return list(VARIANTS).index(name) if name in VARIANTS else len(VARIANTS)


def _head(settings: Mapping[str, Any], seeds: Sequence[int], records: Sequence[Mapping[str, Any]]) -> str:
    about = ", ".join(f"{key} {value}" for key, value in settings.items())
    diverged = sum(bool(record["diverged"]) for record in records)
    return f"# Suite\n\n{about}; {len(seeds)} seeds; {len(records)} runs, {diverged} of them diverged.\n\n{HOW}"


def _markdown(table: Table) -> str:
    deep, logistic = ([task.name for task in kind if task.name in table.tasks] for kind in (DEEP, LOGISTIC))
    lines = [
        f"## {table.title}",
        "",
        "| variant | tasks | mean | deep | logistic | within | worst |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in table.rows:
        task, worst = row.worst()
        cells = [str(len(row.excess)), *(_percent(value) for value in (row.mean(), row.mean(deep), row.mean(logistic)))]
        cells += [f"{sum(row.within.values())}/{len(row.within)}", f"{_percent(worst)} {task}"]
        lines.append(f"| {row.name} | {' | '.join(cells)} |")
    if len(table.tasks) > MOST_COLUMNS:
        return "\n".join([*lines, ""])
    lines += ["", f"| variant | {' | '.join(table.tasks)} |", "|---" * (len(table.tasks) + 1) + "|"]
    for row in table.rows:
        cells = [_percent(row.excess.get(task)) + "*" * row.within.get(task, False) for task in table.tasks]
        lines.append(f"| {row.name} | {' | '.join(cells)} |")
    return "\n".join([*lines, "", *_best_lines(table)])


def _best_lines(table: Table) -> list[str]:
    lines = ["| task | AdamW's best | loss | sd | at the edge of its grid | about |", "|---|---|---|---|---|---|"]
    for row in table.bests.values():
        for task, found in row.items():
            edge = "yes" if found.at_edge else ""
            about = f"{TASKS[task].about}; {TASKS[task].judged}"
            lines.append(f"| {task} | {found.row} | {found.mean:.4g} | {found.sd:.2g} | {edge} | {about} |")
    return [*lines, ""]


def _percent(value: float | None) -> str:
    return "-" if value is None or math.isnan(value) else f"{100 * value:+.1f}"


def _figures(
    tables: Sequence[Table], records: Sequence[Mapping[str, Any]], settings: Mapping[str, Any], seeds: Sequence[int]
) -> dict[str, Any]:
    return {
        "settings": dict(settings),
        "seeds": list(seeds),
        "tables": [
            {
                "title": table.title,
                "best": {base: {task: vars(b) for task, b in row.items()} for base, row in table.bests.items() if row},
                "rows": [{"mean": row.mean(), **vars(row)} for row in table.rows],
            }
            for table in tables
        ],
        "runs": [dict(record) for record in records],
    }


def _pictures(folder: Path, losses: Losses, seeds: Sequence[int]) -> list[Path]:
    made = []
    kinds = {"deep": [task.name for task in DEEP], "logistic": [task.name for task in LOGISTIC]}
    for title, tasks in kinds.items():
        names = [task for task in tasks if best(losses, task, "adamw", seeds) is not None]
        if names:
            made.append(draw(folder / f"{title}.png", names, losses, seeds))
    return made
