"""Measure which d and which AdamW-equivalent rate Prodigy finds on the suite's deep tasks, beside AdamW's best rate.

    python -m docs.measure_rates [--tasks gru,cnn] [--seeds 2] [--bases suite-out]

Prints the table of docs/troubleshooting.md: of `recipe="auto"`, untouched, d after the trials, d at the end and the largest
AdamW-equivalent rate after the trials; of AdamW, with the same linear decay, the best of nine rates, and the span of rates
whose loss is within 5 % of it.
Needs the data of the suite: pip install 'dadapt-dist[suite]'.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

from torch.optim.optimizer import register_optimizer_step_post_hook

import dadapt_dist
from dadapt_dist.tools.suite.catalogue import DEEP, select
from dadapt_dist.tools.suite.task import POINTS, Task
from dadapt_dist.tools.suite.train import Run, train
from dadapt_dist.tools.suite.variants import Variant

TRIALS, NEAR = 8, 1.05
AUTO = Variant("auto", "Prodigy", {"recipe": "auto"}, "own")
seen: list[tuple[float, float]] = []  # d and the AdamW-equivalent rate after each step of the run that is under way


def watch(optimizer: Any, *_: Any) -> None:
    """Write down d and the rate of an optimizer that has them."""
    if isinstance(optimizer, dadapt_dist.Prodigy):
        seen.append((optimizer.d, optimizer.adamw_lr[0]))


def loss_of(task: Task, variant: Variant, seeds: int, bases: Path) -> float:
    """The mean loss over seeds; one that diverged counts as infinite."""
    runs = [train(Run(task.name, variant, seed, task.steps), bases) for seed in range(seeds)]
    return sum(float("inf") if run["diverged"] else run["loss"] for run in runs) / seeds


def row(task: Task, seeds: int, bases: Path) -> str:
    """The line of a task."""
    firsts, ds, peaks, losses = [], [], [], []
    for seed in range(seeds):
        seen.clear()
        run = train(Run(task.name, AUTO, seed, task.steps), bases)
        firsts.append(seen[TRIALS + 1][0])
        ds.append(run["d"])
        peaks.append(max(rate for _, rate in seen[TRIALS:]))
        losses.append(run["loss"])
    mine = sum(losses) / seeds
    rates = [task.rates_from * 2**i for i in range(POINTS)]
    theirs = {lr: loss_of(task, _adamw(lr), seeds, bases) for lr in rates}
    best = min(theirs, key=lambda lr: theirs[lr])
    near = [lr for lr, loss in theirs.items() if loss <= NEAR * theirs[best]]
    return (
        f"| {task.name} | {task.about} | {_span(firsts)} | {_span(ds)} | {_span(peaks)} | {best:.1e} | {_span(near)} "
        f"| {100 * (mine / theirs[best] - 1):+.1f} % |\n"
    )


def _adamw(lr: float) -> Variant:
    return Variant("adamw", "AdamW", {"lr": lr, "weight_decay": 0.0}, "linear")


def _span(values: list[float]) -> str:
    low, high = f"{min(values):.1e}", f"{max(values):.1e}"
    return low if low == high else f"{low} to {high}"


def main() -> None:
    """Measure all tasks that are named."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", default=",".join(task.name for task in DEEP))
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--bases", type=Path, default=Path("suite-out"), help="where bases for fine-tuning are kept")
    given = parser.parse_args()
    register_optimizer_step_post_hook(watch)
    for task in select(given.tasks):
        sys.stdout.write(row(task, given.seeds, given.bases))
        sys.stdout.flush()


if __name__ == "__main__":
    main()
