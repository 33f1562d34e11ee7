"""The command line of the fuzzer, `python -m tests.fuzz`."""

import argparse
import os
import random
import sys

os.environ.setdefault("OMP_NUM_THREADS", "1")

from .config import PENDING, described, draw
from .drive import Fuzzer


def main() -> int:
    parser = argparse.ArgumentParser(
        "make fuzz ARGS=...", description="Random configurations on real ranks against an oracle."
    )
    parser.add_argument("--seed", type=int, help="run this configuration alone")
    parser.add_argument("--without", default="", help="features to drop, separated by commas (with --seed)")
    parser.add_argument("--base", type=int, help="run the seeds from here on; random unless given")
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=float("inf"))
    parser.add_argument("--ranks", type=int, default=4, help="at most so many")
    parser.add_argument("--deadline", type=float, default=20.0, help="seconds after which a run hangs")
    parser.add_argument("--failures", type=int, default=10, help="stop after so many")
    parser.add_argument("--pending", action="store_true", help="also draw what the library does not do yet")
    parser.add_argument("--no-shrink", action="store_true")
    options = parser.parse_args()
    pending = frozenset() if options.pending else PENDING
    say = lambda text: print(text, flush=True)  # noqa: E731, T201
    with Fuzzer(options.ranks, pending, options.deadline) as fuzzer:
        if options.seed is not None:
            without = tuple(filter(None, options.without.split(",")))
            say(described(draw(options.seed, without, pending)))
            failure = fuzzer.one(options.seed, without, shrink=not options.no_shrink and not without)
            say(failure or "right")
            return failure is not None
        base = random.SystemRandom().randrange(10**6) * 1000 if options.base is None else options.base
        say(f"seeds from {base}")
        known = 0
        for seed in range(base, base + options.runs):
            fuzzer.fuzz([seed], seconds=options.seconds, shrink=not options.no_shrink)
            for failure in fuzzer.report.failures[known:]:
                say(f"{failure}\n")
            known = len(fuzzer.report.failures)
            if known >= options.failures:
                break
        say(fuzzer.report)
    return known > 0


if __name__ == "__main__":
    sys.exit(main())
