"""Measure how far each stage of DeepSpeed departs from one process, and write the DeepSpeed table of docs/layouts.md.

    python -m docs.measure_deepspeed

Every row trains the tiny model of tests/helpers/deepspeed_runs.py through `deepspeed.initialize`, in each of the
configurations that its tests train, and compares with the one-process float64 oracle of tests/helpers/deepspeed_reference.py
on the same global batches. The deviation of d is max |d/d1 - 1| over steps, ranks and configurations, that of the parameters max
‖x - x1‖/‖x1‖ over tensors, ranks and configurations; the parameters are the float32 weights that the optimizer moves.
"""

import sys
from collections.abc import Iterator, Sequence

from tests.helpers.deepspeed_checks import CLIP, HPZ, OFFLOADED, ROUND_ROBIN, matrix, overflows
from tests.helpers.deepspeed_reference import deviation, deviation_of_d, reference
from tests.helpers.deepspeed_runs import OPTIONS, SUB_GROUP, Case, Run, train_all
from tests.helpers.pool import WorkerPool

HEAD = "| configuration | wrapper | ranks | d | parameters | d equal on ranks | calls of step() | collectives a step |"


def rows() -> Iterator[tuple[str, int, list[Case]]]:
    """Label, ranks and configurations of each row."""
    for stage in (0, 1, 2, 3):
        for precision in ("fp32", "bf16"):
            cases = [case for case in matrix(stage) if case.precision == precision]
            yield f"stage {stage}, {precision}", 2, cases
    for stage in (0, 2, 3):
        for method in OPTIONS:
            yield f"stage {stage}, {method}", 2, [Case(stage=stage, method=method, groups=3, sub_group=SUB_GROUP)]
    for stage in (0, 1, 2, 3):
        yield f"stage {stage}, fp16, skipped steps", 2, overflows(stage)
    for stage in (0, 1, 2, 3):
        yield f"stage {stage}, autocast to bf16", 2, [Case(stage=stage, groups=3, precision="autocast")]
    yield "stage 1, bf16, float32 accumulation", 2, [Case(stage=1, precision="bf16+fp32", clip=CLIP, accumulation=2)]
    for case in OFFLOADED:
        yield f"stage {case.stage}, {case.precision}, offload of {case.offload}", 2, [case]
    yield "stages 1 and 2, round robin", 2, list(ROUND_ROBIN)
    yield "stages 0 to 3, uneven", 3, [Case(stage=stage, groups=4, clip=CLIP) for stage in (0, 1, 2, 3)]
    yield "stage 3, hpZ on pairs of ranks", 4, [HPZ]


def compared(case: Case, runs: Sequence[Run]) -> tuple[float, float, bool]:
    """Deviation of d and of the parameters, and whether d has the same bits on all ranks."""
    skipped = [step for step, was in enumerate(runs[0].skipped) if was]
    expected = reference(case, len(runs), skipped)
    kept = [step for step in range(case.steps) if step not in skipped]
    of_d = max(deviation_of_d([one.d[step] for step in kept], expected.d) for one in runs)
    # DeepSpeed's own gathering of float32 weights does not know the round-robin order
    found = [one.weights if case in ROUND_ROBIN else one.masters for one in runs]
    of_x = max(deviation(x, expected.params) for x in found)
    return of_d, of_x, all(one.bits == runs[0].bits for one in runs)


def row(label: str, pool: WorkerPool, cases: list[Case]) -> str:
    """One row: the worst of its configurations."""
    by_case = list(zip(*pool.run(train_all, cases, timeout=300), strict=True))
    measured = [compared(case, runs) for case, runs in zip(cases, by_case, strict=True)]
    every = [one for runs in by_case for one in runs]
    wrappers = " or ".join(sorted({one.wrapper for one in every}))
    calls = span({number for one in every for number, was in zip(one.calls, one.skipped, strict=True) if not was})
    later = span({n for one in every for n, was in zip(one.collectives[3:], one.skipped[3:], strict=True) if not was})
    equal = "bit for bit" if all(same for *_, same in measured) else "NO"
    numbers = f"{max(m[0] for m in measured):.1e} | {max(m[1] for m in measured):.1e}"
    return f"| {label} | {wrappers} | {pool.world_size} | {numbers} | {equal} | {calls} | {later} |"


def span(numbers: set[int]) -> str:
    """{1} -> "1"; {1, 3} -> "1 to 3"."""
    return str(min(numbers)) if len(numbers) == 1 else f"{min(numbers)} to {max(numbers)}"


def main() -> None:
    """Write one table row after the other, as each is measured."""
    pools: dict[int, WorkerPool] = {}
    sys.stdout.write(f"{HEAD}\n{'|---' * 8}|\n")
    for label, ranks, cases in rows():
        sys.stdout.write(f"{row(label, pools.setdefault(ranks, WorkerPool(ranks)), cases)}\n")
        sys.stdout.flush()
    for pool in pools.values():
        pool.close()


if __name__ == "__main__":
    main()
