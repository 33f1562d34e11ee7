"""Make the table of all methods on the tasks of `dadapt-dist suite`, from comparisons with each task.

    for task in ...; do dadapt-dist compare $task --tuned none --method dog --method ... --out compared/$task; done
    dadapt-dist suite --out suite-out
    python -m docs.measure_methods compared suite-out

A row is the geometric mean over tasks of a method's loss over that of the best row of AdamW, which the suite has measured.
A loss that is not finite, or above 99, counts as 99.
"""

import argparse
import json
import math
import sys
from collections import defaultdict
from pathlib import Path

from dadapt_dist.tools.suite.catalogue import DEEP, LOGISTIC, TASKS

WORST = 99.0
Losses = dict[str, list[float]]  # by variant, one a seed


def losses(folder: Path) -> dict[str, Losses]:
    """The losses of a folder's runs, by task."""
    found: dict[str, Losses] = defaultdict(lambda: defaultdict(list))
    for line in (folder / "runs.jsonl").read_text(encoding="utf-8").splitlines():
        run = json.loads(line)
        bad = run["loss"] is None or run["diverged"] or not run["loss"] <= WORST
        found[run["task"]][run["variant"]].append(WORST if bad else run["loss"])
    return found


def mean(values: list[float]) -> float:
    """The arithmetic mean."""
    return sum(values) / len(values)


def bests(folder: Path) -> dict[str, float]:
    """The mean loss of AdamW's best row on each task."""
    return {
        task: min(mean(of_seeds) for name, of_seeds in rows.items() if name.startswith("adamw "))
        for task, rows in losses(folder).items()
    }


def percent(ratios: list[float]) -> str:
    """The geometric mean in percent above 1; a dash for none."""
    return f"{100 * math.expm1(mean([math.log(ratio) for ratio in ratios])):+.1f}" if ratios else "-"


def row(name: str, ratios: dict[str, float]) -> str:
    """A line of the table, of a method's loss over AdamW's best on each task."""
    kinds = [[ratios[task.name] for task in kind if task.name in ratios] for kind in (DEEP, LOGISTIC)]
    worst = max(ratios, key=lambda task: ratios[task])
    near = sum(ratio <= 1.15 for ratio in ratios.values())
    every = percent([*ratios.values()])
    return (
        f"| `{name}` | {every} | {percent(kinds[0])} | {percent(kinds[1])} | {near}/{len(ratios)} "
        f"| {100 * (ratios[worst] - 1):+.0f} {worst} |\n"
    )


def main() -> None:
    """Print the table, best first."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "compared", type=Path, help="folder of folders, one a task, as `dadapt-dist compare --out` writes"
    )
    parser.add_argument("suite", type=Path, help="folder of `dadapt-dist suite`, at the same lengths")
    args = parser.parse_args()
    best = bests(args.suite)
    ratios: dict[str, dict[str, float]] = defaultdict(dict)
    for task in (task for task in TASKS if (args.compared / task / "runs.jsonl").is_file()):
        for name, of_seeds in losses(args.compared / task)[task].items():
            ratios[name][task] = mean(of_seeds) / best[task]
    sys.stdout.write(
        "| untouched, one run a seed | all | deep | logistic | within 15 % | worst |\n|---|---|---|---|---|---|\n"
    )
    for name in sorted(ratios, key=lambda name: mean([math.log(ratio) for ratio in ratios[name].values()])):
        sys.stdout.write(row(name, ratios[name]))


if __name__ == "__main__":
    main()
