"""Check which mistaken settings the Trainer's callback warns of, with which cure, and that correct ones give no warning."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import dadapt_dist as dd
from dadapt_dist.checkpoint.from_released import RELEASED
from tests.helpers.classes import ALL
from tests.helpers.pool import WorkerPool
from tests.helpers.said import said_while
from tests.helpers.trainer_runs import OPTIONS, Case, llama, run, run_and_resume, trainer, world

pytest.importorskip("transformers")


def warned(log: pytest.LogCaptureFixture, folder: Path, case: Case) -> list[str]:
    """What the callback says over two trainings with one Trainer."""
    arguments = {"max_steps": 2, "save_strategy": "no", **case.arguments}
    with world(case):
        made, _ = trainer(replace(case, arguments=arguments), str(folder))
        made.train()
        made.train()
    return [record.getMessage() for record in log.records if record.name.startswith("dadapt_dist.integrations")]


@pytest.mark.parametrize(
    ("options", "arguments", "words"),
    [
        ({"lr": 5e-5}, {}, ["lr is 5e-05, not 1.0", "learning_rate=1.0"]),
        ({"safeguard_warmup": False}, {}, ["lr starts at 0 of 1", "Give Prodigy recipe='auto'"]),
        (
            {"recipe": "auto", "d0": 1e-6, "safeguard_warmup": False},
            {},
            ["recipe='auto' without total_steps takes no trial steps", "Pass total_steps=2 and a constant"],
        ),
    ],
    ids=["lr", "warm-up", "no trials"],
)
def test_a_mistaken_setting_is_named_once_with_its_cure(
    options: dict[str, Any], arguments: dict[str, Any], words: list[str], library_log: Any, tmp_path: Path
) -> None:
    said = warned(library_log, tmp_path, Case(kind="one", options=OPTIONS | options, arguments=arguments))
    assert len(said) == 1
    for word in words:
        assert word in said[0]


@pytest.mark.parametrize(
    ("options", "arguments"),
    [
        ({}, {"learning_rate": 5e-5}),  # not given to an optimizer class
        ({"safeguard_warmup": False}, {"warmup_steps": 0}),
        ({"safeguard_warmup": False}, {"lr_scheduler_type": "constant"}),  # takes no warm-up
        ({}, {"max_grad_norm": 0.0}),
        pytest.param({"recipe": "auto", "safeguard_warmup": False}, {}, marks=pytest.mark.matrix),  # d0 is 1e-3
    ],
)
def test_right_settings_are_silent(
    options: dict[str, Any], arguments: dict[str, Any], library_log: Any, tmp_path: Path
) -> None:
    assert warned(library_log, tmp_path, Case(kind="one", options=OPTIONS | options, arguments=arguments)) == []


def test_a_resumed_run_does_not_take_the_decay_for_a_warm_up(library_log: Any, tmp_path: Path) -> None:
    case = Case(kind="one", options=OPTIONS | {"safeguard_warmup": False}, arguments={"warmup_steps": 0})
    run_and_resume(case, str(tmp_path))
    assert [record for record in library_log.records if record.name.startswith("dadapt_dist.integrations")] == []


@pytest.mark.parametrize("norm", [1e-3, 1.0])
def test_a_clip_below_adagrads_first_squares_is_named(norm: float, library_log: Any, tmp_path: Path) -> None:
    case = Case(kind="one", optimizer="DAdaptAdaGrad", options={"d0": 1e-3}, arguments={"max_grad_norm": norm})
    said = warned(library_log, tmp_path, case)
    n = sum(p.numel() for p in llama().parameters())
    threshold = math.sqrt(1e-6 * n)
    assert 1e-3 < threshold < 1.0
    wanted = [f"clipped to a norm of 0.001 over {n} elements", "max_grad_norm=0", f"clip to {threshold:.2g} or more"]
    assert all(word in said[0] for word in wanted) if norm < threshold else said == []


def d_with_gradients_times(factor: float, cls: Any) -> float:
    """d after 200 steps of a least-squares problem whose gradients are multiplied."""
    x = torch.randn(64, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    w = torch.zeros(8, dtype=torch.float64, requires_grad=True)
    optimizer = cls([w])
    for _ in range(200):
        optimizer.zero_grad()
        ((x @ (w - 1)).square().mean() * factor).backward()
        optimizer.step()
    return float(optimizer.d)


@pytest.mark.parametrize("method", RELEASED)
def test_only_adagrads_d_depends_on_the_scale_of_gradients(method: str) -> None:
    usual, small = d_with_gradients_times(1.0, ALL[method]), d_with_gradients_times(1e-5, ALL[method])
    if method == "dadapt_adagrad":
        assert small < usual / 100
    else:
        assert small == pytest.approx(usual, rel=0.2)


def test_deepspeeds_schedule_is_asked_for_its_peak(pool2: WorkerPool) -> None:
    assert pool2.run(peaks_under_deepspeed, {"warmup_num_steps": 4}) == [["lr is 0.001, not 1.0"]] * 2
    assert pool2.run(peaks_under_deepspeed, {"warmup_num_steps": 4, "warmup_max_lr": 1.0}) == [[]] * 2


def peaks_under_deepspeed(parameters: dict[str, Any]) -> list[str]:
    from deepspeed.runtime.lr_schedules import WarmupLR

    from dadapt_dist.integrations.advice import mistakes

    optimizer = dd.Prodigy(torch.nn.Linear(2, 2).parameters(), safeguard_warmup=True)
    schedule = WarmupLR(optimizer, **{"warmup_max_lr": 0.001, **parameters})
    return [text.split(":")[0] for text in mistakes(optimizer, schedule, clip=1.0, params=[])]


GROUPS = [{"params": [torch.nn.Parameter(torch.ones(2))]}, {"params": [torch.nn.Parameter(torch.ones(3))], "lr": 0.0}]


@pytest.mark.parametrize(
    ("factor", "guarded", "said"),
    [
        (lambda step: 1.0, False, []),  # and a group with lr 0, which shall not train
        (lambda step: 0.1, True, ["lr is 0.1, not 1.0"]),  # never anything else
        (lambda step: 0.1, False, ["lr is 0.1, not 1.0"]),  # and no warm-up
        (lambda step: max(0.1, 0.999**step), False, []),  # begins at its peak
        (lambda step: (0.9998, *[0.9] * 2000)[step], False, []),  # nearly
        (lambda step: min(1.0, (step + 1) / 4), False, ["the schedule warms up (lr starts at 0.25 of 1) and"]),
        (lambda step: min(1.0, (step + 1) / 4), True, []),
        (lambda step: [0.5, 1.0][step], True, []),  # a list that ends
    ],
)
def test_schedules_of_torch_are_read(factor: Any, guarded: bool, said: list[str]) -> None:
    from dadapt_dist.integrations.advice import mistakes

    optimizer = dd.Prodigy([dict(group) for group in GROUPS], safeguard_warmup=guarded)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
    found = list(mistakes(optimizer, schedule, clip=1.0, params=[]))
    assert len(found) == len(said)
    assert all(text.startswith(start) for text, start in zip(found, said, strict=True))


def elements_under_fsdp1() -> int:
    from torch.distributed.fsdp import FullyShardedDataParallel

    from dadapt_dist.integrations.advice import count_elements

    net = torch.nn.Sequential(torch.nn.Linear(3, 5), torch.nn.Linear(5, 7))
    wrapped = FullyShardedDataParallel(net, device_id=torch.device("cpu"), use_orig_params=True)
    return count_elements(list(wrapped.parameters()))


def test_elements_that_other_ranks_hold_are_counted_under_fsdp1(pool2: WorkerPool) -> None:
    assert pool2.run(elements_under_fsdp1) == [3 * 5 + 5 + 5 * 7 + 7] * 2


def test_a_record_of_the_users_own_before_training_is_left_alone(tmp_path: Path) -> None:
    case = Case(kind="one")
    with world(case):
        made, _ = trainer(case, str(tmp_path))
        made.log({"loss": 1.0})
    assert "d" not in made.state.log_history[-1]


def test_a_clip_is_named_with_the_elements_of_the_whole_model_under_zero3(pool2: WorkerPool, tmp_path: Path) -> None:
    arguments = {"max_grad_norm": 1e-3, "max_steps": 2, "save_strategy": "no"}
    case = Case(kind="zero3", optimizer="DAdaptAdaGrad", options={"d0": 1e-3}, arguments=arguments)
    n = sum(p.numel() for p in llama().parameters())
    first, second = pool2.run(said_while, run, case, str(tmp_path))
    assert [text.startswith(f"gradients are clipped to a norm of 0.001 over {n} elements") for text in first] == [True]
    assert second == []


def test_the_default_learning_rate_in_a_deepspeed_config_is_named_on_rank_0(pool2: WorkerPool, tmp_path: Path) -> None:
    case = Case(kind="zero2", json=True, arguments={"learning_rate": 5e-5, "max_steps": 2, "save_strategy": "no"})
    assert pool2.run(said_while, run, case, str(tmp_path)) == [["lr is 5e-05, not 1.0"], []]
