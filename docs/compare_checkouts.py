"""Compare the time of a step in two checkouts, in one interleaved run.

    python -m docs.compare_checkouts --before DIR [--rounds 60] [--clock wall|cpu] [--scale]

Each checkout has a process of its own, found through PYTHONPATH, that makes one optimizer a case and waits. The two then
take short turns, never both at once, and each turn begins with the other one. Prints, for each case, the medians in
milliseconds, their ratio (after / before), and the smallest and largest ratio of one turn. Only public names are used, so
that the same timing code runs on both. The cases are those of `dadapt-dist bench step`; with --scale also those of
`dadapt-dist bench scale`, whose command both checkouts run in turns. Noise on a busy machine: see how a checkout compares
with itself, --before and --after the same folder.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
CASES = ("tensors", "flat", "tiny", "tiny, a group each")
WARM_UP = 5
CHILD = """
import sys, time
import torch
import dadapt_dist

torch.set_num_threads(int(sys.argv[1]))
clock = {"wall": time.perf_counter, "cpu": time.process_time}[sys.argv[2]]
SQUARE, BLOCK = [(256, 256)] * 4 + [(256,)] * 4, [(1024, 256), (256, 1024), (1024,), (256,)]
TINY = [(100,)] * 1000
SHAPES = {
    "tensors": SQUARE * 24 + BLOCK * 24 + [(16384, 256), (1792, 1024)],
    "flat": [(20_000_000,)],
    "tiny": TINY,
    "tiny, a group each": TINY,
}
generator, steps = torch.Generator().manual_seed(0), {}
for case in sys.argv[3:]:
    shapes = SHAPES[case]
    params = [torch.nn.Parameter(torch.randn(shape, generator=generator) * 0.02) for shape in shapes]
    for p in params:
        p.grad = torch.randn(p.shape, generator=generator) * 0.01
    groups = [{"params": [p]} for p in params] if "group" in case else params
    steps[case] = dadapt_dist.Prodigy(groups, growth_rate=1.0).step  # or d would grow with gradients that stay
print(dadapt_dist.__file__, flush=True)
for line in sys.stdin:
    case, count = line.rsplit(" ", 1)
    taken = []
    for _ in range(int(count)):
        start = clock()
        steps[case]()
        taken.append((clock() - start) * 1e3)
    print(*taken, flush=True)
"""


class Checkout:
    """A process that takes steps with the package of one checkout."""

    def __init__(self, root: Path, threads: int, clock: str, cases: Sequence[str]) -> None:
        if not (root / "dadapt_dist" / "__init__.py").exists():
            raise SystemExit(f"{root} has no dadapt_dist: give the folder of a checkout")
        self.env = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": str(threads)}
        line = [sys.executable, "-c", CHILD, str(threads), clock, *cases]
        self.child = subprocess.Popen(
            line, cwd=root, env=self.env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        found = self._line()
        if not found.startswith(str(root)):
            raise SystemExit(f"the process of {root} imported {found}")

    def _line(self) -> str:
        assert self.child.stdout is not None
        line = self.child.stdout.readline()
        if not line:
            raise SystemExit("a process ended before it had taken its steps: see above")
        return line.strip()

    def steps(self, case: str, count: int) -> list[float]:
        """Milliseconds of `count` steps of a case."""
        assert self.child.stdin is not None
        self.child.stdin.write(f"{case} {count}\n")
        self.child.stdin.flush()
        return [float(ms) for ms in self._line().split()]

    def scale(self) -> dict[str, float]:
        """Milliseconds of a later step of every row of `dadapt-dist bench scale`."""
        with tempfile.TemporaryDirectory() as folder:
            made = Path(folder) / "scale.json"
            line = [sys.executable, "-m", "dadapt_dist", "bench", "scale", "--ranks", "8", "--tensors", "100,1000"]
            subprocess.run([*line, "--json", str(made)], env=self.env, check=True, capture_output=True)
            rows = json.loads(made.read_text())["rows"]
        return {f"scale, {row['tensors']} {row['kind']}": float(row["step"]) for row in rows}


def say(case: str, before: list[float], after: list[float], turns: list[float]) -> None:
    """Print the line of a case."""
    medians = statistics.median(before), statistics.median(after)
    line = f"{case:20} {medians[0]:9.3f} ms {medians[1]:9.3f} ms  ratio {medians[1] / medians[0]:.3f}"
    sys.stdout.write(f"{line}  turns {min(turns):.3f} to {max(turns):.3f}\n")
    sys.stdout.flush()


def compare(case: str, checkouts: tuple[Checkout, Checkout], turns: int, count: int) -> None:
    """Time one case in turns."""
    taken: tuple[list[float], list[float]] = ([], [])
    ratios = []
    for checkout in checkouts:
        checkout.steps(case, WARM_UP)
    for turn in range(turns):
        of_turn = {side: checkouts[side].steps(case, count) for side in ((0, 1) if turn % 2 else (1, 0))}
        ratios.append(statistics.median(of_turn[1]) / statistics.median(of_turn[0]))
        for side in (0, 1):
            taken[side].extend(of_turn[side])
    say(case, *taken, ratios)


def compare_scale(checkouts: tuple[Checkout, Checkout], turns: int) -> None:
    """Time the cases of `dadapt-dist bench scale` in turns."""
    found: list[tuple[dict[str, float], ...]] = []
    for turn in range(turns):
        order = (0, 1) if turn % 2 else (1, 0)
        of_turn: dict[int, Any] = {side: checkouts[side].scale() for side in order}
        found.append((of_turn[0], of_turn[1]))
    for case in found[0][0]:
        before, after = ([pair[side][case] for pair in found] for side in (0, 1))
        say(case, before, after, [b / a for a, b in zip(before, after, strict=True)])


def main() -> None:
    """Read the command line, and time every case."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--before", type=Path, required=True, metavar="DIR", help="checkout to compare with")
    parser.add_argument("--after", type=Path, default=ROOT, metavar="DIR", help="the other checkout; default: this one")
    parser.add_argument("--case", action="append", choices=CASES, help="one case; may be given several times")
    parser.add_argument("--rounds", type=int, default=60, help="steps of a case")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall", help="cpu: the time of the process alone")
    parser.add_argument("--scale", action="store_true", help="also `dadapt-dist bench scale`, five times each")
    args = parser.parse_args()
    before, after = (
        Checkout(root.resolve(), args.threads, args.clock, args.case or CASES) for root in (args.before, args.after)
    )
    sys.stdout.write(f"{'':20} {'before':>12} {'after':>12}\n")
    for case in args.case or CASES:
        count = 5
        compare(case, (before, after), max(2, args.rounds // count), count)
    if args.scale:
        compare_scale((before, after), 5)


if __name__ == "__main__":
    main()
