"""Check that Hugging Face's Trainer trains our optimizers as one process does, logs d and resumes bit for bit."""

import gc
import json
import math
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import dadapt_dist as dd
from tests.helpers.classes import ALL, WITH_D, WITH_RATE, first_d
from tests.helpers.pool import WorkerPool
from tests.helpers.trainer_runs import BATCH, SAVED, STEPS, Case, Run, run, run_and_resume, trainer, world

pytest.importorskip("transformers")
from dadapt_dist.integrations.transformers import DAdaptCallback

ROOT = Path(__file__).parents[3]
BOUND = 1e-6  # relative, of d, and absolute, of the weights; both are float32 and differ by 1e-7
ALIKE = {"weight_decay": 0.0}
# Prodigy alone: the Trainer knows no method, and every method under every layout is in tests/distributed/test_layouts.py.
KINDS = [
    Case(kind="ddp"),
    Case(kind="fsdp2"),
    Case(kind="zero2"),
    Case(kind="zero2", json=True, arguments=ALIKE),
    Case(kind="zero3"),
]


def name_of(case: Case) -> str:
    return f"{case.kind}{'-json' if case.json else ''}-{case.optimizer}"


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Case], tuple[Run, Run]]:
    """The same case in this process, with the run that goes on from its checkpoint."""
    found: dict[str, tuple[Run, Run]] = {}

    def get(case: Case) -> tuple[Run, Run]:
        case = replace(case, kind="one", json=False)
        if str(case) not in found:
            found[str(case)] = run_and_resume(case, str(tmp_path_factory.mktemp("one")))
        return found[str(case)]

    return get


def furthest(found: Run, wanted: Run) -> tuple[float, float]:
    """The largest deviations: of d, relative, and of a weight."""
    d = max(abs(a / b - 1) for a, b in zip(found.of("d"), wanted.of("d"), strict=True))
    return d, max(float((a - b).abs().max()) for a, b in zip(found.weights, wanted.weights, strict=True))


# ---------------------------------------------------------------- one process


def test_the_log_and_the_trackers_get_d_effective_lr_and_the_gradient_norm(alone: Any) -> None:
    found, _ = alone(Case(kind="one"))
    steps = [entry for entry in found.history if "loss" in entry]
    assert [entry["step"] for entry in steps] == list(range(1, STEPS + 1))
    assert found.of("d")[0] == 1e-3 < found.of("d")[-1]
    rates = [1 / 2, *((STEPS - k) / (STEPS - 2) for k in range(2, STEPS + 1))]  # linear, of the coming step
    assert found.of("effective_lr") == pytest.approx([d * lr for d, lr in zip(found.of("d"), rates, strict=True)])
    assert all(norm > 0 for norm in found.of("grad_norm"))
    names = {"loss", "grad_norm", "learning_rate", "d", "effective_lr"}
    assert [{name: entry[name] for name in names} for entry in found.tracked[:STEPS]] == [
        {name: entry[name] for name in names} for entry in steps
    ]
    assert "d" not in found.tracked[-1]  # the summary at the end
    assert len(found.groups) == 2
    assert min(found.groups) > 0


@pytest.mark.parametrize("method", ALL)
def test_every_method_trains_and_is_logged(method: str, tmp_path: Path) -> None:
    short = {"max_steps": 2, "warmup_steps": 0, "save_strategy": "no"}
    case = Case(kind="one", optimizer=ALL[method].__name__, options=first_d(method, 1e-3), arguments=short)
    steps = [entry for entry in run(case, str(tmp_path)).history if "loss" in entry]
    assert len(steps) == 2
    assert all(math.isfinite(entry["d"]) == (method in WITH_D) for entry in steps)
    assert all(math.isfinite(entry["effective_lr"]) == (method in WITH_RATE) for entry in steps)
    assert steps[1]["loss"] != steps[0]["loss"] > 0


def test_an_evaluation_does_not_log_d(tmp_path: Path) -> None:
    case = Case(kind="one", arguments={"max_steps": 2, "warmup_steps": 0, "save_strategy": "no"})
    with world(case):
        made, seen = trainer(case, str(tmp_path))
        before = made.evaluate(made.train_dataset)
        made.train()
        made.evaluate(made.train_dataset)
    assert before["eval_loss"] > 0
    assert ["d" in logs for logs in seen] == [False, True, True, False, False]


def test_a_callback_that_is_installed_comes_first_also_behind_a_frozen_heap(tmp_path: Path) -> None:
    """The Trainer puts its users' callbacks last, and which handler a callback is in cannot be found after gc.freeze()."""
    case = Case(kind="one", arguments={"max_steps": 2, "warmup_steps": 0, "save_strategy": "no"})
    with world(case):
        made, seen = trainer(case, str(tmp_path))
        handler = made.callback_handler
        (given,) = [callback for callback in handler.callbacks if isinstance(callback, DAdaptCallback)]
        handler.callbacks = [*(other for other in handler.callbacks if other is not given)]
        callback, others = DAdaptCallback(), list(handler.callbacks)
        gc.freeze()
        try:
            assert callback.install(made) is callback
            assert callback.install(made).install(made) is callback
            assert handler.callbacks == [callback, *others]
            made.train()
            assert handler.callbacks == [callback, *others]
        finally:
            gc.unfreeze()
    assert [sorted({"d", "effective_lr"} & logs.keys()) for logs in seen[:2]] == [["d", "effective_lr"]] * 2


def test_groups_with_rates_of_their_own_are_logged_one_by_one() -> None:
    from dadapt_dist.monitor.values import logged

    first, second = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)
    groups = [{"params": first.parameters(), "lr": 1.0}, {"params": second.parameters(), "lr": 0.5}]
    held = {"held_steps": 0.0}
    of_adamw = {"adamw_lr/0": pytest.approx(10**0.5 * 1e-6), "adamw_lr/1": pytest.approx(10**0.5 * 5e-7)}
    assert logged(dd.Prodigy(groups)) == {"d": 1e-6, "effective_lr/0": 1e-6, "effective_lr/1": 5e-7, **of_adamw, **held}
    groups = [{"params": first.parameters(), "estimate": "a"}, {"params": second.parameters(), "estimate": "b"}]
    of_adamw = {"adamw_lr": pytest.approx(10**0.5 * 1e-6)}
    assert logged(dd.Prodigy(groups)) == {"d/a": 1e-6, "d/b": 1e-6, "effective_lr": 1e-6, **of_adamw, **held}


def test_a_run_resumed_in_one_process_is_the_uninterrupted_one_to_the_bit(alone: Any) -> None:
    whole, resumed = alone(Case(kind="one"))
    assert whole.of("d") == resumed.of("d")
    assert whole.of("d")[SAVED - 1] < whole.of("d")[-1]
    assert all(map(torch.equal, whole.weights, resumed.weights))


# ---------------------------------------------------------------- two processes


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(c, marks=[pytest.mark.matrix] if name_of(c) in ("ddp-Prodigy", "zero2-Prodigy") else [])
        for c in KINDS
    ],
    ids=name_of,
)
def test_two_processes_follow_one_and_resume_to_the_bit(
    case: Case, alone: Any, pool2: WorkerPool, tmp_path: Path
) -> None:
    (whole, resumed), others = pool2.run(run_and_resume, case, str(tmp_path), timeout=120)
    for mine, theirs in zip((whole, resumed), others, strict=True):
        assert mine.of("d") == theirs.of("d")
        assert all(map(torch.equal, mine.weights, theirs.weights))
    d, weights = furthest(whole, alone(case)[0])
    assert d < BOUND
    assert weights < BOUND
    assert whole.of("grad_norm") == pytest.approx(alone(case)[0].of("grad_norm"), rel=1e-5)
    assert whole.of("d")[0] < whole.of("d")[-1]
    assert whole.of("d") == resumed.of("d")
    assert all(map(torch.equal, whole.weights, resumed.weights))
    assert whole.wrapper == ("DeepSpeedOptimizerWrapper" if case.deepspeed else "AcceleratedOptimizer")


def test_accumulated_gradients_make_one_step(alone: Any, pool2: WorkerPool, tmp_path: Path) -> None:
    whole = Case(kind="one", optimizer="DAdaptSGD", options={"d0": 1e-3, "momentum": 0.9})
    halves = {"per_device_train_batch_size": BATCH // 4, "gradient_accumulation_steps": 2, "save_strategy": "no"}
    found, _ = pool2.run(run, replace(whole, kind="fsdp2", arguments=halves), str(tmp_path))
    d, weights = furthest(found, alone(whole)[0])
    assert found.of("d")[0] < found.of("d")[-1]
    assert d < BOUND
    assert weights < BOUND


def test_another_optimizer_is_refused(tmp_path: Path) -> None:
    case = Case(kind="one")
    with world(case):
        made, _ = trainer(case, str(tmp_path))
        made.optimizer_cls_and_kwargs = (torch.optim.AdamW, {})
        with pytest.raises(TypeError, match="AdamW is no learning-rate-free optimizer"):
            made.train()


# ---------------------------------------------------------------- LoRA


def python(folder: Path, script: Path) -> str:
    """Standard and error output of a script."""
    given = {**os.environ, "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, str(script)], cwd=folder, env=given, capture_output=True, text=True, timeout=100
    )
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def test_the_lora_example_trains_from_b_equal_to_0_on_a_base_in_bfloat16(tmp_path: Path) -> None:
    pytest.importorskip("peft")
    from safetensors.torch import load_file

    said = python(tmp_path, ROOT / "examples" / "lora.py")
    assert "dadapt_dist" not in said  # no warning
    states = sorted((tmp_path / "lora-out").glob("checkpoint-*/trainer_state.json"))
    history = [entry for entry in json.loads(states[-1].read_text())["log_history"] if "loss" in entry]
    assert history[-1]["d"] > 1e-3
    assert history[-1]["loss"] < history[0]["loss"] / 1.8
    weights = load_file(tmp_path / "lora-out" / "adapter_model.safetensors")
    assert {value.dtype for value in weights.values()} == {torch.float32}
    assert {value.dtype for value in load_file(tmp_path / "lora-base" / "model.safetensors").values()} == {
        torch.bfloat16
    }
    moved = [name for name, value in weights.items() if "lora_B" in name and value.abs().max() > 0]
    assert len(moved) == 14
