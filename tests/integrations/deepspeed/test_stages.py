"""Compare d under DeepSpeed's stages, precisions, offloads and entries with one process, with one all-reduce per step.

Every test trains several configurations in one call of the workers, since starting an engine is what takes the time.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from tests.helpers.classes import ALWAYS_BEFORE, EVERY, IN_ONE_GO, SETTINGS, WITHOUT_SUMS
from tests.helpers.deepspeed_checks import (
    CLIP,
    HPZ,
    OFFLOADED,
    ROUND_ROBIN,
    bounds,
    matrix,
    overflows,
    run,
    run_and_check,
)
from tests.helpers.deepspeed_reference import deviation, deviation_of_d, reference
from tests.helpers.deepspeed_runs import SUB_GROUP, Case
from tests.helpers.pool import WorkerPool

Pools = Callable[[int], WorkerPool]


# ---------------------------------------------------------------- the matrix


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_every_stage_follows_one_process(stage: int, pool2: WorkerPool) -> None:
    run_and_check(pool2, matrix(stage))


@pytest.mark.in_one_go
@pytest.mark.parametrize("stage", [0, 2, 3])
def test_every_method_follows_one_process(stage: int, pool2: WorkerPool) -> None:
    run_and_check(pool2, [Case(stage=stage, method=method, groups=3, sub_group=SUB_GROUP) for method in IN_ONE_GO])


@pytest.mark.parametrize("method", [*ALWAYS_BEFORE, *WITHOUT_SUMS])
def test_sums_of_before_the_move_are_one_step_late_where_a_step_comes_in_pieces(method: str, pool2: WorkerPool) -> None:
    """And those of a method that has none are missed nowhere: every stage, in one call a step and in several."""
    cases = [
        Case(stage=stage, method=method, groups=groups)
        for stage in (0, 1, 2, 3)
        for groups in ((1, 3) if EVERY else (3,))
    ]
    cases += [Case(stage=stage, method=method, groups=3, clip=CLIP, accumulation=2) for stage in (1, 3)]
    cases += [Case(stage=stage, method=method, groups=3, precision="bf16", sub_group=SUB_GROUP) for stage in (0, 2, 3)]
    cases += [Case(stage=stage, method=method, groups=3, precision="fp16", spoiled={3: 1}) for stage in (0, 2, 3)]
    cases += [Case(stage=2, method=method, groups=3, options={"freeze_after": 5}, steps=8)]
    run_and_check(pool2, cases)


AUTO = {**SETTINGS["prodigy auto"], "weight_decay": 0.0, "use_bias_correction": False}


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_the_recipe_follows_one_process(stage: int, pool2: WorkerPool) -> None:
    """Whose cap needs the root mean square of each tensor of the model, of which ZeRO's flat ones hold pieces."""
    case = Case(stage=stage, options=AUTO)
    cases = [case, replace(case, groups=3), replace(case, groups=3, clip=CLIP, accumulation=2, entry="json")]
    cases += [replace(case, groups=3, precision="bf16"), replace(case, groups=3, options={**AUTO, "freeze_after": 5})]
    cases += [replace(case, precision="fp16", groups=3, spoiled={3: 1})]
    if stage > 0:
        cases += [replace(case, groups=3, offload="optimizer", clip=CLIP)]
    if stage == 3:
        cases += [replace(case, groups=3, sub_group=SUB_GROUP), replace(case, sub_group=SUB_GROUP, nan_padding=True)]
    run_and_check(pool2, cases)


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_a_probed_d_follows_one_process(stage: int, pool2: WorkerPool) -> None:
    """The trial steps, and the step that puts the parameters back, in one piece and in several."""
    probed = {"recipe": "auto", "total_steps": 60, "d0": 1e-6, "use_bias_correction": False, "weight_decay": 0.0}
    case = Case(stage=stage, options=probed, steps=12)
    cases = [case, replace(case, groups=3), replace(case, groups=3, precision="fp16", spoiled={3: 1})]
    run_and_check(pool2, cases + [replace(case, groups=3, sub_group=SUB_GROUP)] * (stage == 3))


def test_the_cap_matters() -> None:
    """The comparisons would say nothing of it if it held nothing back."""
    free = {**AUTO, "rms_cap": 1e9}
    assert deviation_of_d(reference(Case(stage=2, options=AUTO)).d, reference(Case(stage=2, options=free)).d) > 1e-2


def test_clipping_matters() -> None:
    """The matrix would say nothing of it if the norm were always below."""
    assert deviation_of_d(reference(Case(stage=2, clip=CLIP)).d, reference(Case(stage=2)).d) > 1e-2


# ---------------------------------------------------------------- wrappers and options of DeepSpeed


def test_offload_to_the_cpu_follows_one_process(pool2: WorkerPool) -> None:
    run_and_check(pool2, OFFLOADED)


def test_bf16_weights_with_float32_accumulation_follow_one_process(pool2: WorkerPool) -> None:
    cases = [
        Case(stage=1, groups=3, precision="bf16+fp32"),
        Case(stage=1, precision="bf16+fp32", clip=CLIP, accumulation=2),
    ]
    for runs in run_and_check(pool2, cases):
        assert runs[0].wrapper == "BF16_Optimizer"


def test_round_robin_partitions_follow_one_process(pool2: WorkerPool) -> None:
    """The flat tensor holds the parameters in another order, of which DeepSpeed's links from parameters know nothing."""
    for case, runs in zip(ROUND_ROBIN, run(pool2, ROUND_ROBIN), strict=True):
        for one in runs:
            assert one.bits == runs[0].bits
            assert deviation_of_d(one.d, reference(case).d) < bounds(case)[0]
            assert deviation(one.weights, reference(case).params) < bounds(case)[1]


def test_autocast_follows_one_process(pool2: WorkerPool) -> None:
    run_and_check(pool2, [Case(stage=stage, groups=3, precision="autocast") for stage in (0, 1, 2, 3)])


def test_hierarchical_partitioning_follows_one_process(pools: Pools) -> None:
    """hpZ: parameters are cut over 4 ranks, and a second copy of them over pairs of ranks."""
    run_and_check(pools(4), [HPZ])


def test_three_ranks_cut_unevenly_follow_one_process(pools: Pools) -> None:
    """The group of the head's bias has 3 elements: at stages 1 and 2 the last rank holds nothing but padding."""
    run_and_check(pools(3), [Case(stage=stage, groups=4, clip=CLIP) for stage in (0, 1, 2, 3)])


# ---------------------------------------------------------------- fp16


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_a_step_skipped_for_an_overflow_is_as_if_it_had_not_been(stage: int, pool2: WorkerPool) -> None:
    cases = overflows(stage)
    results = run_and_check(pool2, [Case(stage=stage, precision="fp16", clip=CLIP), *cases])[1:]
    for case, runs in zip(cases, results, strict=True):
        for one in runs:
            skipped = [step for step, was in enumerate(one.skipped) if was]
            assert skipped == ([3] if case.spoiled else [0, 1])
            assert [one.collectives[i] for i in skipped] == [0] * len(skipped)
            assert one.moved == [not was for was in one.skipped]
            for i in skipped:
                before = (one.d[i - 1], one.k[i - 1], one.steps[i - 1]) if i else (case.optimizer_options["d0"], 0, 0)
                assert (one.d[i], one.k[i], one.steps[i]) == before


# ---------------------------------------------------------------- how the optimizer gets there


@pytest.mark.parametrize("stage", [0, 2, 3])
def test_a_json_entry_an_object_and_a_callable_give_the_same_bits(stage: int, pool2: WorkerPool) -> None:
    cases = [Case(stage=stage, groups=3, sub_group=SUB_GROUP, entry=entry) for entry in ("object", "json", "callable")]
    results = run_and_check(pool2, cases)
    for runs in results:
        assert runs[0].bits == results[0][0].bits
        assert all(torch.equal(a, b) for a, b in zip(runs[0].masters, results[0][0].masters, strict=True))


def test_names_of_cases_tell_them_apart() -> None:
    cases: list[Any] = [case for stage in (0, 1, 2, 3) for case in matrix(stage)]
    assert len({str(case) for case in cases}) == len(cases)
