"""Check that an Accelerate script trains as one process does under every file of configs/accelerate, and resumes."""

import gc
import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import dadapt_dist as dd
from tests.helpers.accelerate_checks import (
    BF16,
    EXACT,
    FILES,
    FLOAT32,
    FP16,
    RISE_AND_FALL,
    SMALL_D0,
    check,
    deviations,
    json_file,
    shortened,
)
from tests.helpers.accelerate_launch import Case, launched
from tests.helpers.accelerate_runs import STEPS, Runs, Script, train_all
from tests.helpers.pool import WorkerPool

pytest.importorskip("accelerate")


# DeepSpeed's schedules in files of `shortened`: the first step runs before the schedule has begun.
SCHEDULES = {
    "WarmupDecayLR": [0, 0, 1 / 2, *((STEPS + 2 - k) / STEPS for k in range(2, STEPS - 1))],
    "WarmupCosineLR": [0, 0, 1 / 2, *((1 + math.cos(math.pi * k / STEPS)) / 2 for k in range(1, STEPS - 2))],
}


def twice(case: Case) -> Case:
    """The same with two micro-steps, which the script alone asks for."""
    return replace(case, accumulation=2)


# Prodigy alone: Accelerate knows no method, and every method under every layout is in tests/distributed/test_layouts.py.
PLAIN = [Case(config=name) for name in FILES if name != "zero-json"]
DUMMY = [Case(config="zero-json", launch=(), json=json_file(f"zero{stage}-fp32")) for stage in (1, 2, 3)]
LOW = ("zero1-bf16", "zero2-bf16-offload-cpu", "zero3-bf16", "zero3-bf16-offload-cpu")


def schedule(case: Case) -> list[float]:
    """The lr of each step: the script's, or that of the file."""
    if case.json is None:
        return RISE_AND_FALL
    return SCHEDULES[json.loads(Path(case.json).read_text())["scheduler"]["type"]]


def run(pool: WorkerPool, cases: Sequence[Case], folder: Path | None = None) -> list[tuple[Runs, ...]]:
    """For each case, what each rank saw."""
    by_rank = pool.run(train_all, list(cases), str(folder) if folder else None, timeout=110)
    return list(zip(*by_rank, strict=True))


# ---------------------------------------------------------------- the trajectory


def check_resumed(case: Case, runs: Runs) -> None:
    """load_state into the same model and into another one goes on as if nothing had happened."""
    for other in (runs.again, runs.resumed):
        assert other is not None
        assert other.bits == runs.last.bits, case
        assert all(torch.equal(a, b) for a, b in zip(other.weights, runs.last.weights, strict=True)), case


def check_logged(runs: Sequence[Runs]) -> None:
    """The tracker of the main process got d and d·lr of every step, those of the other processes nothing."""
    seen = runs[0].last.logged
    assert [step for step, _ in seen] == list(range(STEPS))
    assert [values["d"] for _, values in seen] == runs[0].d
    assert all(values.keys() == {"d", "effective_lr", "adamw_lr", "held_steps", "held_apart"} for _, values in seen)
    assert runs[1].last.logged == []


@pytest.mark.parametrize("cases", [PLAIN[:3], PLAIN[3:]], ids=["ddp and fsdp", "zero"])
def test_every_file_follows_one_process_and_resumes_to_the_bit(
    pool2: WorkerPool, tmp_path: Path, cases: list[Case]
) -> None:
    for case, runs in zip(cases, run(pool2, cases, tmp_path), strict=True):
        check(case, runs, FLOAT32 if case.deepspeed else EXACT)
        check_logged(runs)
        for one in runs:
            check_resumed(case, one)


def test_an_optimizer_of_the_deepspeed_file_does_so_too(pool2: WorkerPool, tmp_path: Path) -> None:
    """With DummyOptim: the files of float32 as they stand, and from a larger d0."""
    short = [replace(case, json=shortened(Path(str(case.json)).stem, tmp_path)) for case in DUMMY]
    for case, runs in zip([*DUMMY, *short], run(pool2, [*DUMMY, *short], tmp_path), strict=True):
        check(case, runs, SMALL_D0 if case in DUMMY else FLOAT32, [1.0] * STEPS)
        check_logged(runs)
        for one in runs:
            check_resumed(case, one)


def test_accumulated_gradients_are_one_step(pool2: WorkerPool) -> None:
    cases = [twice(case) for case in PLAIN]
    for case, runs in zip(cases, run(pool2, cases), strict=True):
        check(case, runs, FLOAT32 if case.deepspeed else EXACT)


def test_every_file_trains_in_bf16_as_it_stands(pool2: WorkerPool, tmp_path: Path) -> None:
    """Those of DeepSpeed's with a schedule too, which the engine steps."""
    cases = [replace(case, launch=()) for case in PLAIN]
    cases += [Case(config="zero-json", launch=(), json=shortened(name, tmp_path)) for name in LOW]
    for case, runs in zip(cases, run(pool2, cases), strict=True):
        check(case, runs, BF16, schedule(case))


# ---------------------------------------------------------------- overflows


def test_a_step_with_an_overflow_is_left_out_on_all_ranks(pool2: WorkerPool) -> None:
    """One rank's loss is infinite. Whose word it is differs: ours, the ShardedGradScaler's, DeepSpeed's."""
    spoiled = {3: 1}
    cases = [
        Case(config="ddp", scaled=True, spoiled=spoiled),
        Case(config="fsdp2", scaled=True, spoiled=spoiled),
        Case(config="fsdp1", scaled=True, spoiled=spoiled),
        *[Case(config=f"zero{n}", launch=("--mixed_precision", "fp16"), spoiled={6: 1}) for n in (1, 2, 3)],
    ]
    for case, runs in zip(cases, run(pool2, cases), strict=True):
        ours = case.config in ("ddp", "fsdp2")
        said = runs[0].skipped
        assert runs[1].skipped == said
        if ours:  # Accelerate is not told: step() was called. So it is for torch's fused AdamW; the schedule goes on
            assert said == [False] * STEPS
            assert runs[0].lr == pytest.approx(RISE_AND_FALL)
        else:  # the schedule waits
            assert said[next(iter(case.spoiled))]
            assert [b == a for a, b in zip(runs[0].lr, runs[0].lr[1:], strict=False)] == said[:-1]
        skipped = [step in spoiled for step in range(STEPS)] if ours else said
        of_d, of_params = deviations(case, runs, skipped)
        bound = FP16 if case.deepspeed else FLOAT32
        assert (of_d < bound, of_params < bound) == (True, True), (case, of_d, of_params)


def own_scaler(config: str) -> tuple[str, list[float]]:
    """A script that keeps a GradScaler of its own, and gives it what prepare() returned; one rank overflows in step 1."""
    case = Case(config=config, scaled=True)
    with launched(case):
        script = Script(case)
        scaler, script.optimizer.scaler = torch.amp.GradScaler("cpu"), None
        ds = []
        try:
            for step, (x, y) in enumerate(script.loader):
                scaler.scale(((script.model(x) - y) ** 2).mean()).backward()
                if step == 1 and script.accelerator.process_index == 1:
                    grads = [p.grad for p in script.model.parameters() if p.grad is not None and p.grad.numel()]
                    getattr(grads[0], "_local_tensor", grads[0]).fill_(math.inf)
                scaler.step(script.optimizer)
                scaler.update()
                script.optimizer.zero_grad()
                ds.append(dd.base_optimizer(script.optimizer).d)
        except RuntimeError as error:
            return str(error), ds
        finally:
            script.end()
    return "", ds


def test_a_scaler_that_was_given_the_prepared_optimizer_is_right_under_fsdp2_and_refused_under_fsdp1(
    pool2: WorkerPool,
) -> None:
    """AcceleratedOptimizer hides whether we unscale. torch reduces the flag of DTensors over the ranks, FSDP1 has no such."""
    (said, ds), other = pool2.run(own_scaler, "fsdp2")
    assert (said, ds) == other
    assert said == ""
    assert ds[1] == ds[0] < ds[-1]
    for said, ds in pool2.run(own_scaler, "fsdp1"):
        assert "a GradScaler was given the AcceleratedOptimizer around this optimizer" in said
        assert "ShardedGradScaler" in said
        assert ds == []


def behind_a_frozen_heap(config: str, what: str) -> tuple[list[str], list[str]]:
    """d with and without a frozen heap, of which `attach` was told; the last rank overflows in one step."""
    case, found = Case(config=config, scaled=True, spoiled={3: 1}), []
    for frozen in (False, True):
        with launched(case):
            script = Script(case)
            if frozen:
                gc.freeze()
                dd.attach(script.accelerator if what == "accelerator" else script.model)
                dd.attach(script.optimizer)
            try:
                found.append(script.train().bits)
            finally:
                gc.unfreeze()
            script.end()
    return found[0], found[1]


@pytest.mark.parametrize("what", ["accelerator", "model"])
@pytest.mark.parametrize("config", ["ddp", "fsdp1", "fsdp2"])
def test_an_attached_accelerator_or_its_parts_are_known_behind_a_frozen_heap(
    config: str, what: str, pool2: WorkerPool
) -> None:
    for found, behind in pool2.run(behind_a_frozen_heap, config, what):
        assert behind == found
