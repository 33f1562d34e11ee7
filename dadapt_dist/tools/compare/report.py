"""What came of a comparison: a table, results.json with all figures, and the U-curves."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...files.whole_write import write_whole
from ..suite.pictures import curve, figure_class, frame, level
from ..suite.statistics import Best, Paired, lowest, paired
from ..suite.store import Key
from ..suite.task import Task
from .contenders import Contender

Record = Mapping[str, Any]
HIGHEST = 10.0  # of the lowest loss: the y axis of the picture ends there
HEAD = ("method", "schedule", "runs a seed", "loss", "sd", "over the best", "difference", "lower", "s/run")


@dataclass(frozen=True)
class Result:
    """A contender and what its runs gave: losses by variant, one of each seed, inf for one that diverged."""

    contender: Contender
    losses: Mapping[str, list[float]]
    best: Best
    seconds: float

    @property
    def cost(self) -> int:
        """Runs that one seed takes."""
        return len(self.losses)

    @property
    def label(self) -> str:
        if not self.contender.rates:
            return self.contender.label
        return f"{self.contender.label}, best of {self.cost}: lr {self.contender.rates[self.best.row]:.6g}"

    @property
    def diverged(self) -> int:
        """Runs that did."""
        return sum(math.isinf(loss) for losses in self.losses.values() for loss in losses)


def report(
    folder: Path, task: Task, rows: Sequence[Contender], records: Mapping[Key, Record], steps: int, seeds: Sequence[int]
) -> tuple[str, list[Path]]:
    """The table, as text, and the files with it: report.md, results.json, curve.png."""
    results = [_result(task.name, row, records, seeds) for row in rows]
    reference = _reference(results)
    text = _text(task, results, reference, steps, len(seeds))
    write_whole(folder / "report.md", text + "\n")
    figures = _figures(task, results, reference, steps, seeds)
    write_whole(folder / "results.json", json.dumps(figures, indent=1, allow_nan=False) + "\n")
    return text, [folder / "report.md", folder / "results.json", _picture(folder / "curve.png", task, results)]


def _result(task: str, row: Contender, records: Mapping[Key, Record], seeds: Sequence[int]) -> Result:
    found = {variant.name: [records[task, variant.name, seed] for seed in seeds] for variant in row.variants}
    losses = {
        name: [math.inf if r["diverged"] or r["loss"] is None else float(r["loss"]) for r in of_name]
        for name, of_name in found.items()
    }
    seconds = [r["seconds"] for of_name in found.values() for r in of_name]
    return Result(row, losses, lowest(losses, row.rates), sum(seconds) / len(seconds))


def _reference(results: Sequence[Result]) -> Result:
    """The best of those that are tuned, else of all."""
    tuned = [result for result in results if result.contender.rates]
    return min(tuned or results, key=lambda result: result.best.mean)


def _text(task: Task, results: Sequence[Result], reference: Result, steps: int, seeds: int) -> str:
    kind = "best of the tuned" if reference.contender.rates else "best"
    lines = [
        f"{task.name}, {steps} steps, {seeds} seeds, judged by {task.judged}; the {kind} is {reference.label}",
        "",
        *_aligned([HEAD, *(_cells(result, reference) for result in results)]),
        "",
        "loss: mean over the seeds; sd: theirs; difference: from the best, seed by seed, ± standard error; lower: in how many.",
    ]
    if reference.contender.rates:
        lines.append(
            "A best rate is chosen with the losses that it is judged by, which favours what is tuned a little."
        )
    for result in results:
        if result.best.at_edge:
            lines.append(
                f"{result.label} is at the edge of its grid: a better one may lie outside, give a wider --rates."
            )
        if result.diverged:
            total = sum(map(len, result.losses.values()))
            lines.append(f"{result.contender.label}: {result.diverged} of {total} runs diverged.")
    return "\n".join(lines)


def _cells(result: Result, reference: Result) -> tuple[str, ...]:
    mean, schedule = result.best.mean, result.contender.schedule
    cells = [result.label, Path(schedule).name, str(result.cost)]
    cells += [f"{mean:.4g}", f"{result.best.sd:.2g}"] if math.isfinite(mean) else ["diverged", ""]
    difference = None if result is reference else _difference(result, reference)
    excess = None if difference is None else _excess(result, reference)
    cells.append("" if excess is None else f"{100 * excess:+.1f} %")
    if difference is None:
        cells += ["", ""]
    else:
        error = "" if math.isnan(difference.error) else f" ± {difference.error:.2g}"
        cells += [f"{difference.mean:+.3g}{error}", f"{difference.lower} of {difference.seeds}"]
    return (*cells, f"{result.seconds:.2g}")


def _difference(result: Result, reference: Result) -> Paired | None:
    return paired(result.losses[result.best.row], reference.losses[reference.best.row])


def _excess(result: Result, reference: Result) -> float | None:
    """Loss over that of the best, less 1; None where the ratio says nothing."""
    mean, other = result.best.mean, reference.best.mean
    return mean / other - 1 if other > 0 and math.isfinite(mean) and math.isfinite(other) else None


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """A table of Markdown whose columns are as wide as their widest cell."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in rows
    ]
    return [lines[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *lines[1:]]


def _figures(
    task: Task, results: Sequence[Result], reference: Result, steps: int, seeds: Sequence[int]
) -> dict[str, Any]:
    return {
        "task": task.name,
        "judged_by": task.judged,
        "steps": steps,
        "seeds": list(seeds),
        "best": reference.label,
        "methods": [_row(result, reference) for result in results],
    }


def _row(result: Result, reference: Result) -> dict[str, Any]:
    difference = _difference(result, reference)
    return {
        "method": result.contender.label,
        "schedule": result.contender.schedule,
        "tuned": bool(result.contender.rates),
        "runs_a_seed": result.cost,
        "seconds_a_run": result.seconds,
        "lr": result.contender.rates.get(result.best.row),
        "at_edge": result.best.at_edge,
        "loss": _finite(result.best.mean),
        "sd": result.best.sd,
        "excess": _excess(result, reference),
        "difference": difference and {name: _finite(value) for name, value in vars(difference).items()},
        "diverged_runs": result.diverged,
        "losses": [
            {
                "optimizer": variant.described(),
                "lr": result.contender.rates.get(variant.name),
                "by_seed": [*map(_finite, result.losses[variant.name])],
            }
            for variant in result.contender.variants
        ],
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _picture(path: Path, task: Task, results: Sequence[Result]) -> Path:
    figure = figure_class()(figsize=(8, 5), layout="constrained")
    axis, means = figure.subplots(), []
    for i, result in enumerate(results):
        if result.contender.rates:
            points = {result.contender.rates[name]: losses for name, losses in result.losses.items()}
            means += curve(axis, f"{result.contender.label} ({result.cost} runs)", points)
        else:
            means += level(axis, f"{result.contender.label} (1 run)", result.losses[result.best.row], i)
    frame(axis, task.name, means, "learning rate", HIGHEST)
    if means and min(means) > 0:
        axis.set_yscale("log")
    axis.legend()
    figure.savefig(path, dpi=120)
    return path
