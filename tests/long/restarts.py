"""Check that a run whose ranks are killed ends as an undisturbed one: `python -m tests.long.restarts --help`, `make restarts`.

torchrun starts a real script and starts it again. Its ranks are killed by SIGKILL at random moments after the first
checkpoint, often while one is being written.
"""

import argparse
import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.helpers.launchers import ROOT, environment

LAYOUTS = ("ddp", "fsdp2", "zero2")
RESTARTS, LIMIT = 6, 150.0  # seconds for one run
SCRIPTS = {"zero2": [str(ROOT / "tests" / "long" / "restart_zero.py")]}


@dataclass
class Outcome:
    """kills: (attempt, steps in the newest checkpoint, was one being written) of each; result: None when it did not end well."""

    layout: str
    kills: list[tuple[int, int, bool]]
    seconds: float
    result: dict[str, str] | None
    output: str

    @property
    def restarts(self) -> int:
        """How often torchrun started the ranks again, for a run that ended well."""
        return self.kills[-1][0] + 1 if self.kills else 0


class Run:
    """One torchrun and its ranks; a context manager that leaves no process behind."""

    def __init__(self, layout: str, folder: Path, *, steps: int = 40, pause: float = 0.05, ranks: int = 2) -> None:
        self.layout, self.folder, self.out = layout, folder, folder / "out"
        self.log = (folder / "log").open("w+")
        script = SCRIPTS.get(layout, [str(ROOT / "examples" / "restart.py")])
        line = [
            sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks),
            "--max-restarts", str(RESTARTS), "--monitor-interval", "0.1", *script, "--layout", layout,
            "--folder", str(self.out), "--steps", str(steps), "--pause", str(pause), "--timeout", "10",
        ]  # fmt: skip
        self.process = subprocess.Popen(
            line, env=environment(), cwd=folder, stdout=self.log, stderr=self.log, start_new_session=True
        )

    def __enter__(self) -> "Run":
        return self

    def __exit__(self, *_: object) -> None:
        for pid in self.ranks():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.kill()
        self.process.wait()
        self.log.close()

    def ranks(self) -> list[int]:
        """Process ids of the ranks that live now."""
        with suppress(OSError):
            children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text()
            return [int(pid) for pid in children.split() if b"RANK=" in _environment_of(int(pid))]
        return []

    def done(self) -> int:
        """Steps in the newest checkpoint; 0 when there is none."""
        return max((int(path.name[-8:]) for path in self.out.glob("step-????????")), default=0)

    def writing(self) -> bool:
        """Is a checkpoint being written?"""
        return any(self.out.glob("*.part"))

    def ended(self) -> bool:
        return self.process.poll() is not None

    def wait(self, condition: Callable[[], Any], limit: float) -> bool:
        """Wait for a condition, or the end of the run; False when neither came."""
        until = time.monotonic() + limit
        while not condition() and not self.ended():
            if time.monotonic() > until:
                return False
            time.sleep(0.0005)
        return True

    def kill(self, r: random.Random) -> tuple[int, int, bool] | None:
        """Kill a rank, or all of them, at a random moment; what there was then. None when the run had ended before."""
        before = self.done()
        self.wait(lambda: self.done() > before or (before == 0 and self.done()), 60.0)
        time.sleep(r.uniform(0.0, 0.4))
        if r.random() < 0.5:
            self.wait(self.writing, 10.0)
            time.sleep(r.choice((0.0, 0.0005, 0.002)))
        there, writing, ranks = self.done(), self.writing(), self.ranks()
        attempt = max((_attempt(pid) for pid in ranks), default=0)
        for pid in ranks if r.random() < 0.2 else r.sample(ranks, min(1, len(ranks))):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return (attempt, there, writing) if ranks and not self.ended() else None

    def outcome(self, kills: list[tuple[int, int, bool]], seconds: float) -> Outcome:
        result = self.out / "result.json"
        good = self.process.poll() == 0 and result.exists()
        output = Path(self.log.name).read_text()
        return Outcome(
            self.layout, kills, seconds, json.loads(result.read_text()) if good else None, output
        )  # fmt: skip


def _environment_of(pid: int) -> bytes:
    with suppress(OSError):
        return Path(f"/proc/{pid}/environ").read_bytes()
    return b""


def _attempt(pid: int) -> int:
    found = re.search(rb"TORCHELASTIC_RESTART_COUNT=(\d+)", _environment_of(pid))
    return int(found[1]) if found else 0


def run(layout: str, kills: int, seed: int, **options: Any) -> Outcome:
    """Run the script under a layout and kill ranks so many times."""
    r, start = random.Random(seed), time.monotonic()
    with tempfile.TemporaryDirectory(prefix="restarts") as folder, Run(layout, Path(folder), **options) as one:
        made = []
        for _ in range(kills):
            kill = one.kill(r)
            if kill is None:
                break
            made.append(kill)
        one.wait(lambda: False, LIMIT)
        return one.outcome(made, time.monotonic() - start)


def main() -> int:
    parser = argparse.ArgumentParser("make restarts ARGS=...", description="Kill ranks of real runs, and compare.")
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--layout", choices=LAYOUTS, help="only this one")
    parser.add_argument("--seed", type=int, help="of the first run; random unless given")
    options = parser.parse_args()
    say = lambda text: print(text, flush=True)  # noqa: E731, T201
    seed = random.SystemRandom().randrange(10**6) if options.seed is None else options.seed
    layouts = [options.layout] if options.layout else LAYOUTS
    alone = {layout: run(layout, 0, 0, pause=0.0).result for layout in layouts}
    say(f"uninterrupted: {alone}\nseeds from {seed}")
    equal, kills, saving, restarts = 0, 0, 0, 0
    for number in range(options.runs):
        layout = layouts[number % len(layouts)]
        one = run(layout, 1 + number % 3, seed + number)
        same = one.result is not None and one.result == alone[layout]
        equal, kills, saving = equal + same, kills + len(one.kills), saving + sum(writing for *_, writing in one.kills)
        restarts += one.restarts
        say(
            f"seed {seed + number} {layout}: killed at {one.kills}, {one.seconds:.0f} s, {'equal' if same else 'NOT EQUAL'}"
        )
        if not same:
            say(one.output[-3000:])
    say(
        f"{options.runs} runs, {kills} kills ({saving} while a checkpoint was written), {restarts} restarts; "
        f"{equal} runs equal bit for bit"
    )
    return equal < options.runs


if __name__ == "__main__":
    sys.exit(main())
