"""Run configurations one after the other, and report those that fail."""

import os
import shutil
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass, field

from tests.helpers.pool import WorkerPool

from .config import FEATURES, PENDING, Config, described, draw
from .judge import expect, judge
from .ranks import run

os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # for the ranks: what DDP thinks of their models
DEADLINE = 20.0  # seconds for all ranks of one leg; a usual one takes a tenth of a second
LIFE = 400  # configurations on the same processes
SHRINKING = 60.0  # seconds for making one failure smaller


@dataclass
class Failure:
    """A configuration that fails, made smaller by dropping features, and what is wrong with it."""

    seed: int
    without: tuple[str, ...]
    wrong: list[str]
    pending: frozenset[str]

    def __str__(self) -> str:
        dropped = f" --without '{','.join(self.without)}'" if self.without else ""
        return "\n".join([
            f"seed {self.seed} fails:",
            *(f"  {line}" for text in self.wrong[:4] for line in text.splitlines()[-12:]),
            f"again: make fuzz ARGS=\"--seed {self.seed}{dropped}\"",
            "the smallest configuration that was found:",
            described(draw(self.seed, self.without, self.pending)),
        ])  # fmt: skip


@dataclass
class Report:
    """moved: configurations in which d grew; the others show less."""

    runs: int = 0
    moved: int = 0
    seconds: float = 0.0
    failures: list[Failure] = field(default_factory=list)

    def __str__(self) -> str:
        rate = self.runs / self.seconds if self.seconds else 0.0
        return (
            f"{self.runs} configurations in {self.seconds:.0f} s ({rate:.1f} a second), d grew in {self.moved}, "
            f"{len(self.failures)} failed"
        )


class Fuzzer:
    """Pools of ranks, and what was found on them; a context manager. ranks: no configuration with more."""

    def __init__(self, ranks: int = 4, pending: frozenset[str] = PENDING, deadline: float = DEADLINE) -> None:
        self.ranks, self.pending, self.deadline = ranks, pending, deadline
        self.report, self._start = Report(), time.monotonic()
        self._moved = False
        self._pools: dict[int, WorkerPool] = {}

    def __enter__(self) -> "Fuzzer":
        return self

    def __exit__(self, *_: object) -> None:
        for pool in self._pools.values():
            pool.close()

    def fuzz(self, seeds: Iterable[int], *, seconds: float = float("inf"), shrink: bool = True) -> Report:
        """Run configurations until the seeds are used up, or the seconds since this fuzzer was made."""
        for seed in seeds:
            if time.monotonic() - self._start > seconds:
                break
            if max(leg.ranks for leg in draw(seed, (), self.pending).legs) <= self.ranks:
                self.one(seed, shrink=shrink)
            self.report.seconds = time.monotonic() - self._start
        return self.report

    def one(self, seed: int, without: tuple[str, ...] = (), *, shrink: bool = True) -> Failure | None:
        """Run one configuration; a failure is made smaller, and noted."""
        wrong = self.check(draw(seed, without, self.pending), without)
        self.report.runs += 1
        self.report.moved += self._moved
        if not wrong:
            return None
        failure = Failure(seed, without, wrong, self.pending)
        if shrink:
            failure = self.shrunk(failure)
        self.report.failures.append(failure)
        return failure

    def check(self, config: Config, without: tuple[str, ...] = ()) -> list[str]:
        """What is wrong with one configuration; a rank that dies or hangs is wrong too, and other processes take over."""
        try:
            expected = expect(config)
        except OverflowError:  # the run explodes
            return []
        self._moved = any(expected.d[-1][name] > d for name, d in expected.d[0].items())
        calls = [(0,), (1,)] if config.through == "dcp" and len(config.legs) > 1 else [tuple(range(len(config.legs)))]
        seen, folder = [], tempfile.mkdtemp(prefix="fuzz")
        try:
            for legs in calls:
                pool = self._pool(config.legs[legs[0]].ranks)
                seen.append(pool.run(run, config.seed, without, self.pending, legs, folder, timeout=self.deadline))
        except Exception as error:
            return [f"{type(error).__name__}: {error}{_remote(error)}"]
        finally:
            shutil.rmtree(folder)
        return judge(config, expected, seen)

    def shrunk(self, failure: Failure) -> Failure:
        """The same failure without every feature that it does not need."""
        until = time.monotonic() + SHRINKING
        config = draw(failure.seed, failure.without, self.pending)
        for name in FEATURES:
            smaller = draw(failure.seed, (*failure.without, name), self.pending)
            if smaller == config or time.monotonic() > until:
                continue
            wrong = self.check(smaller, (*failure.without, name))
            if wrong:
                failure, config = Failure(failure.seed, (*failure.without, name), wrong, self.pending), smaller
        return failure

    def _pool(self, ranks: int) -> WorkerPool:
        if ranks not in self._pools:
            self._pools[ranks] = WorkerPool(ranks, calls_per_life=LIFE)
        return self._pools[ranks]


def _remote(error: BaseException) -> str:
    return f"\n{error.__cause__}" if error.__cause__ is not None else ""
