"""Draw the loss curves of runs of `dadapt-dist demo`, and print their held-out losses.

    python -m docs.draw_longer_run runs/prodigy runs/adamw-0.001 ... [--out docs/quality-longer.png]

Each folder is the `--out` of a demo. Curves are means over 50 of the logged losses.

Needs matplotlib: pip install 'dadapt-dist[cli]'.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

MEAN_OVER = 50  # logged losses, each of five steps' last batch
COLORS = (
    "tab:orange",
    "tab:green",
    "tab:red",
    "tab:purple",
    "tab:brown",
    "tab:pink",
    "tab:gray",
    "tab:olive",
    "tab:cyan",
)


def name_of(folder: Path) -> str:
    """The method of a run, and its learning rate where it was given one."""
    run = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    return run["method"] if run["lr"] is None else f"{run['method']}, {run['lr']:g}"


def curve(folder: Path) -> tuple[list[int], list[float]]:
    """Steps, and the mean training loss around each in bits a byte."""
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    logged = [(entry["step"], entry["loss"]) for entry in map(json.loads, lines) if "loss" in entry]
    windows = [logged[at - MEAN_OVER : at] for at in range(MEAN_OVER, len(logged) + 1)]
    return [w[MEAN_OVER // 2][0] for w in windows], [sum(loss for _, loss in w) / MEAN_OVER for w in windows]


def held_out(folder: Path) -> float:
    """Bits a byte."""
    found: Any = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    return float(found["held_out_bits_per_byte"])


def main() -> None:
    """Draw the picture of docs/quality.md."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--out", type=Path, default=Path("docs/quality-longer.png"))
    args = parser.parse_args()

    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    colors = iter(COLORS)
    for folder in args.folders:
        mine = json.loads((folder / "run.json").read_text(encoding="utf-8"))["lr"] is None
        label = f"{name_of(folder)}: {held_out(folder):.3f} held out"
        axes.plot(
            *curve(folder), label=label, color="tab:blue" if mine else next(colors), linewidth=2.2 if mine else 1.1
        )
        sys.stdout.write(label + "\n")
    axes.set(xlabel="step", ylabel="training loss, bits a byte", ylim=(1.4, 3.2))
    axes.legend(frameon=False)
    figure.savefig(args.out, dpi=120)


if __name__ == "__main__":
    main()
