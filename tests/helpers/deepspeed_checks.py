"""Compares runs of DeepSpeed with one process, and lists the configurations that are compared."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import product

import torch

from dadapt_dist.methods import METHODS

from .classes import ALWAYS_BEFORE, EVERY, WITH_D
from .collectives import reduces_of
from .deepspeed_reference import Expected, deviation, deviation_of_d, reference
from .deepspeed_runs import SUB_GROUP, SUB_GROUPS, Case, Run, train_all
from .pool import WorkerPool

# (d, parameters): about five times the largest deviation seen; docs/layouts.md has the table. DeepSpeed keeps weights and
# state in float32, the oracle in float64, and Prodigy's first sums are differences of nearly equal weights.
PRODIGY, OTHERS, LOW_PRECISION = (8e-6, 4e-6), (1e-6, 3e-6), (2.5e-5, 1.2e-5)
PROBED = 4e-5, 2e-5
CLIP = 0.8  # above the norm in some steps, below it in others


def run(pool: WorkerPool, cases: Sequence[Case]) -> list[list[Run]]:
    """For each case, what each rank saw."""
    by_rank = pool.run(train_all, cases, timeout=110)
    return [list(runs) for runs in zip(*by_rank, strict=True)]


def run_and_check(pool: WorkerPool, cases: Sequence[Case]) -> list[list[Run]]:
    results = run(pool, cases)
    for case, runs in zip(cases, results, strict=True):
        check(case, runs)
    return results


def check(case: Case, runs: list[Run]) -> None:
    """d bit-equal on all ranks, and with the weights that of one process; one collective a step; all pieces in one step."""
    first, name = runs[0], str(case)
    taken = [step for step, skipped in enumerate(first.skipped) if not skipped]
    expected = reference(case, len(runs), [step for step, skipped in enumerate(first.skipped) if skipped])
    counted = [i for i in taken if not case.lrs or case.lrs[i] > 0]
    collectives = [collectives_of(case, n, first=not counted or i <= counted[0]) for n, i in enumerate(taken)]
    for one in runs:
        assert one.bits == first.bits, f"{name}: d differs between ranks"
        assert one.before[0] == 0, f"{name}: initialize communicated"
        assert [one.collectives[i] for i in taken] == collectives, name
        assert [one.k[i] for i in taken] == expected.k, (name, one.k, expected.k)
        assert one.steps == [sum(i <= step for i in counted) for step in range(case.steps)], name
        check_numbers(case, one, expected, taken)
    if case.stage < 3 or len(runs) == 2:
        assert first.calls == [pieces(case, first.wrapper) if i in taken else 0 for i in range(case.steps)], name
    if case.method in WITH_D:
        first_d = case.optimizer_options.get("d0", expected.d[0])
        slow = case.method == "dual_averaging"  # and d does not move at all in fewer steps than all
        few = slow and bool(case.spoiled or case.options or case.lrs)
        assert few or expected.d[-1] > (1.02 if slow else 1.2) * first_d, (
            f"{name}: d never moved, the comparison would be empty"
        )


def collectives_of(case: Case, n: int, *, first: bool) -> int:
    """The collectives of the nth step. first: there was no gradient before."""
    method, frozen = METHODS[case.method], n >= case.options.get("freeze_after", case.steps)
    sized = "recipe" in case.options  # the sizes of tensors are wanted in every step, and measured when they are placed
    number = reduces_of(case.method, lagged=case.in_pieces, frozen=frozen and not sized)
    number += (2 + 2 * sized + method.wants_loss) * (n == 0)  # of placing; two for the sizes, one for who shares a loss
    if case.in_pieces:
        return number
    once = method.before is not None and case.method not in ALWAYS_BEFORE
    return number + first * ((method.start is not None) + once)


def bounds(case: Case) -> tuple[float, float]:
    """What d and the parameters may deviate from one process."""
    if case.precision != "fp32":
        return LOW_PRECISION
    if case.options.get("d0") == 1e-6:  # the first trial steps are small beside the weights, in float32
        return PROBED
    return PRODIGY if case.method == "prodigy" else OTHERS


def check_numbers(case: Case, one: Run, expected: Expected, taken: list[int]) -> None:
    name = str(case)
    of_d, of_parameters = bounds(case)
    far = deviation_of_d([one.d[i] for i in taken], expected.d), deviation(one.masters, expected.params)
    assert far[0] < of_d, (name, far)
    assert far[1] < of_parameters, (name, far)
    for weight, master in zip(one.weights, one.masters, strict=True):
        assert torch.equal(weight, master.to(case.dtype).float()), (
            f"{name}: the model does not have the optimizer's weights"
        )


def pieces(case: Case, wrapper: str) -> int:
    """Calls of the optimizer's step() in one global step."""
    if wrapper == "DeepSpeedZeroOptimizer":
        return case.groups
    if wrapper == "DeepSpeedZeroOptimizer_Stage3":
        return SUB_GROUPS[case.groups] if case.sub_group == SUB_GROUP else case.groups
    return 1


def matrix(stage: int) -> list[Case]:
    """Groups × precision × clipping × accumulation, and at stage 3 × sub-groups: all, or the half that has all pairs."""
    every = [*product((1, 3), ("fp32", "bf16"), (0.0, CLIP), (1, 2))]
    if not EVERY:
        every = [one for one in every if sum((one[0] == 1, one[1] == "fp32", one[2] == 0, one[3] == 1)) % 2 == 0]
    cases = [
        Case(stage=stage, groups=groups, precision=precision, clip=clip, accumulation=accumulation)
        for groups, precision, clip, accumulation in every
    ]
    return cases + [replace(case, sub_group=SUB_GROUP) for case in cases if stage == 3]


OFFLOADED = [
    *[Case(stage=s, offload="optimizer", groups=3, sub_group=SUB_GROUP, accumulation=2, clip=CLIP) for s in (1, 2, 3)],
    *[Case(stage=s, offload="optimizer", precision="bf16", groups=3, sub_group=SUB_GROUP) for s in (2, 3)],
    *[
        Case(stage=3, offload="parameters", precision=p, groups=3, sub_group=SUB_GROUP, clip=CLIP)
        for p in ("fp32", "bf16")
    ],
]
ROUND_ROBIN = [Case(stage=stage, groups=3, zero={"round_robin_gradients": True}) for stage in (1, 2)]
HPZ = Case(stage=3, groups=3, sub_group=SUB_GROUP, clip=CLIP, zero={"zero_hpz_partition_size": 2})


def overflows(stage: int) -> list[Case]:
    """One rank overflows in the fourth step; and, where DeepSpeed scales the loss, all do until the scale has come down."""
    high = {"fp16": {"enabled": True, "initial_scale_power": 19, "hysteresis": 1}}
    spoiled = Case(stage=stage, groups=3, precision="fp16", sub_group=SUB_GROUP, spoiled={3: 1})
    first = Case(stage=stage, groups=3, precision="fp16", sub_group=SUB_GROUP, config=high, steps=8)
    return [spoiled] if stage == 0 else [spoiled, first]
