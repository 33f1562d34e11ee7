"""Does a plain script of Accelerate train as one process would, under every file of configs/accelerate, and resume to the bit?"""

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.helpers.accelerate_launch import CONFIGS, Case
from tests.helpers.accelerate_runs import STEPS, Net, Runs, train_all
from tests.helpers.deepspeed_reference import clipped, deviation, deviation_of_d
from tests.helpers.models import gradients
from tests.helpers.oracles import ORACLES
from tests.helpers.pool import WorkerPool

pytest.importorskip("accelerate")

ROOT = CONFIGS.parent.parent
FILES = sorted(path.stem for path in CONFIGS.glob("*.yaml"))
# About five times the largest deviation seen; docs/accelerate.md has the table. From d0 = 1e-6 the first sums are differences
# of weights that are nearly equal in float32.
EXACT, FLOAT32, SMALL_D0, FP16, BF16 = 1e-13, 1.3e-5, 6e-3, 5e-3, 0.12
RISE_AND_FALL = [1 / 4, 3 / 4, *((16 - k) / 12 for k in range(4, 16, 2))]  # linear_decay_with_warmup at 0, 2, 4, ...

# DeepSpeed's schedules in files of `shortened`: the first step runs before the schedule has begun.
SCHEDULES = {
    "WarmupDecayLR": [0, 0, 1 / 2, *((STEPS + 2 - k) / STEPS for k in range(2, STEPS - 1))],
    "WarmupCosineLR": [0, 0, 1 / 2, *((1 + math.cos(math.pi * k / STEPS)) / 2 for k in range(1, STEPS - 2))],
}


def json_file(name: str) -> str:
    return str(ROOT / "configs" / "deepspeed" / f"{name}.json")


def twice(case: Case) -> Case:
    """The same with two micro-steps, which the script alone asks for."""
    return replace(case, accumulation=2)


PLAIN = [Case(config=name) for name in FILES if name != "zero-json"]
DUMMY = [Case(config="zero-json", launch=(), json=json_file(f"zero{stage}-fp32")) for stage in (1, 2, 3)]
LOW = ("zero1-bf16", "zero2-bf16-offload-cpu", "zero3-bf16", "zero3-bf16-offload-cpu")


def shortened(name: str, folder: Path, **changes: Any) -> str:
    """A file of configs/deepspeed for a short run: a larger d0, a schedule of 8 steps. changes: None removes an entry."""
    config = json.loads(Path(json_file(name)).read_text())
    config["optimizer"]["params"] |= {"d0": 1e-3, "d_coef": 4.0}
    if "scheduler" in config:
        config["scheduler"]["params"] |= {"total_num_steps": STEPS + 2, "warmup_num_steps": 2}
    config = {key: value for key, value in (config | changes).items() if value is not None}
    path = folder / f"{name}-{len(list(folder.iterdir()))}.json"
    path.write_text(json.dumps(config))
    return str(path)


def schedule(case: Case) -> list[float]:
    """The lr of each step: the script's, or that of the file."""
    if case.json is None:
        return RISE_AND_FALL
    return SCHEDULES[json.loads(Path(case.json).read_text())["scheduler"]["type"]]


def options(case: Case) -> dict[str, Any]:
    return case.named or {name: value for name, value in case.options.items() if name != "nonfinite"}


def reference(case: Case, lrs: Sequence[float], skipped: Sequence[bool]) -> tuple[list[float], list[Tensor]]:
    """d after each step, and the parameters, of one process in float64 on the global batches. Skipped steps are left out."""
    model = Net(dtype=torch.float64)
    oracle, ds = ORACLES["prodigy"](list(model.parameters()), **options(case)), []
    for step, (lr, skip) in enumerate(zip(lrs, skipped, strict=True)):
        oracle.set_lr(lr)
        if not skip:
            grads = [g for g in gradients(model, oracle.params, step) if g is not None]
            oracle.step(clipped(grads, 1.0 if case.deepspeed else 0.0))
        ds.append(oracle.d)
    return ds, oracle.params


def deviations(case: Case, runs: Sequence[Runs], skipped: Sequence[bool] = (False,) * STEPS) -> tuple[float, float]:
    """Of d and of the parameters from one process; d is equal bit for bit on all ranks."""
    assert all([d.hex() for d in one.d] == [d.hex() for d in runs[0].d] for one in runs), case
    ds, params = reference(case, runs[0].lr, skipped)
    assert ds[-1] > 10 * ds[0], "d never moved, the comparison would be empty"
    return deviation_of_d(runs[0].d, ds), max(deviation(one.last.weights, params) for one in runs)


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
    assert all(values.keys() == {"d", "effective_lr"} for _, values in seen)
    assert runs[1].last.logged == []


def check(case: Case, runs: Sequence[Runs], bound: float, lrs: Sequence[float] = RISE_AND_FALL) -> None:
    assert max(deviations(case, runs)) < bound, (case, deviations(case, runs))
    assert runs[0].lr == pytest.approx(lrs)
    assert not any(runs[0].skipped)


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
