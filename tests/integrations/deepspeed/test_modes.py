"""Evaluation under ZeRO: the model computes with averaged weights, and with those that train again afterwards."""

from importlib.metadata import version
from typing import Any

import pytest
import torch
from torch import Tensor

from dadapt_dist import LearningRateFree
from dadapt_dist.integrations.known_issues import DEFECTS
from tests.helpers.deepspeed_runs import (
    DECAYS,
    STEPS,
    SUB_GROUP,
    Case,
    Odd,
    Trainer,
    batch,
    indices,
    loss_of,
    same_bits,
)
from tests.helpers.oracles import ORACLES
from tests.helpers.oracles.dog import DoGOracle
from tests.helpers.pool import WorkerPool
from tests.helpers.toy_methods import toys_registered

SCALE = 2.0**8  # the loss scale of `Case`
METHOD, LR = "schedule_free_sgd", {"lr": 1.0}
CASES = [
    Case(stage=0, method=METHOD, options=LR),
    Case(stage=0, method=METHOD, options=LR, precision="bf16"),
    Case(stage=1, method=METHOD, options=LR),
    Case(stage=1, method=METHOD, options=LR, precision="bf16+fp32"),
    Case(stage=2, method=METHOD, options=LR),
    Case(stage=2, method=METHOD, options=LR, precision="bf16"),
    Case(stage=2, method=METHOD, options=LR, offload="optimizer"),
    Case(stage=2, method=METHOD, options=LR, zero={"round_robin_gradients": True}),
    Case(stage=3, method=METHOD, options=LR, sub_group=SUB_GROUP),
    Case(stage=3, method=METHOD, options=LR, precision="bf16"),
    Case(stage=3, method=METHOD, options=LR, offload="parameters"),
    Case(stage=3, method=METHOD, options=LR, zero={"stage3_param_persistence_threshold": 20}),
]


def train(case: Case) -> dict[str, Any]:
    """On every rank: the model's weights in both modes, and the master weights in training, after the last step."""
    with Trainer(case) as trainer:
        optimizer: LearningRateFree = trainer.base
        for step in range(STEPS):
            trainer.step(step)
            optimizer.eval()
            seen = trainer.weights()
            if trainer.case.stage < 3:  # stage 3 refuses a forward pass without a backward pass after it
                trainer.engine.module(batch(0)[0].to(case.dtype))
            optimizer.train()
        return {
            "wrapper": type(trainer.wrapper).__name__,
            "evaluated": seen,
            "weights": trainer.weights(),
            "masters": trainer.masters(),
        }


def expected(divisor: float = 1.0) -> tuple[list[Tensor], list[Tensor]]:
    """(weights in training, weights in evaluation) of one process, whose gradients are divided."""
    model = Odd().double()
    params = [*model.parameters()]
    oracle: Any = ORACLES[METHOD](params, weight_decay=DECAYS[1][0], **LR)
    for step in range(STEPS):
        with torch.no_grad():
            for p, value in zip(params, oracle.params, strict=True):
                p.copy_(value)
        model.zero_grad()
        x, y = batch(step)
        (loss_of(model(x.double()), y.double()) / divisor).backward()
        oracle.step([p.grad for p in params])
    return oracle.params, oracle.evaluated()


def test_fp16_weights_at_stage_0_follow_the_mode(pool2: WorkerPool) -> None:
    """DeepSpeed divides the gradients there by the loss scale, and newer versions multiply no loss by it: a known defect."""
    defect = next(defect for defect in DEFECTS if defect.precision == "fp16")
    trained, evaluated = expected(SCALE if defect.is_likely(version("deepspeed")) else 1.0)
    for found in pool2.run(train, Case(stage=0, method=METHOD, options=LR, precision="fp16")):
        assert found["wrapper"] == "FP16_UnfusedOptimizer"
        for name, values, bound in (
            ("masters", trained, 1e-4),
            ("weights", trained, 5e-4),
            ("evaluated", evaluated, 5e-4),
        ):
            assert max(float((t - v).abs().max()) for t, v in zip(found[name], values, strict=True)) < bound, name
        assert all(torch.equal(t, m.half().float()) for t, m in zip(found["weights"], found["masters"], strict=True))
        assert not all(torch.equal(t, e) for t, e in zip(found["weights"], found["evaluated"], strict=True))


@pytest.mark.parametrize("case", CASES, ids=str)
def test_low_precision_weights_follow_the_mode(case: Case, pool2: WorkerPool) -> None:
    trained, evaluated = expected()
    bound = 2e-6 if case.precision == "fp32" else 1.2e-2
    assert max(float((a - b).abs().max()) for a, b in zip(trained, evaluated, strict=True)) > 2 * bound
    for found in pool2.run(train, case):
        for name, values in (("masters", trained), ("weights", trained), ("evaluated", evaluated)):
            if (
                name == "masters" and "round_robin_gradients" in case.zero
            ):  # of which DeepSpeed's own look-up knows nothing
                continue
            for t, value in zip(found[name], values, strict=True):
                assert float((t - value).abs().max()) < bound, (found["wrapper"], name)


AVERAGED: dict[str, Any] = {"average": 8.0, "reps_rel": 0.3, "before": "lagged"}
AVERAGES = [
    Case(stage=0, method="dog", options=AVERAGED, precision="bf16"),
    Case(stage=1, method="dog", options=AVERAGED, precision="bf16+fp32"),
    Case(stage=2, method="dog", options=AVERAGED, precision="bf16", groups=3, lrs=(1.0, 1.0, 0.0, 1.0, 1.0, 1.0)),
    Case(stage=2, method="dog", options=AVERAGED, precision="fp16", offload="optimizer"),
    Case(stage=3, method="dog", options=AVERAGED, sub_group=SUB_GROUP),
    Case(stage=3, method="dog", options=AVERAGED, precision="bf16", offload="parameters"),
    Case(stage=3, method="dog", options=AVERAGED, nan_padding=True),
]


def average(case: Case) -> dict[str, Any]:
    """On every rank: weights in both modes after the last step, and whether evaluation changed a bit of training."""
    with Trainer(case) as trainer:
        same = []
        for step in range(STEPS):
            trainer.step(step)
            tensors = [t for p, state in trainer.base.state.items() for t in (p.detach(), *state.values())]
            before = [t.clone() for t in (*tensors, *trainer.weights())]
            trainer.base.eval()
            seen = trainer.weights()
            trainer.base.train()
            same.append(all(map(same_bits, before, (*tensors, *trainer.weights()))))
        return {"same": same, "weights": trainer.weights(), "evaluated": seen}


def averaged(case: Case) -> tuple[list[Tensor], list[Tensor]]:
    """(weights, averages) of one process."""
    model = Odd().double()
    params = [*model.parameters()]
    groups = [
        {"indices": ids, "weight_decay": w} for ids, w in zip(indices(case.groups), DECAYS[case.groups], strict=True)
    ]
    oracle = DoGOracle(params, groups, lagged=True, average=8.0, reps_rel=0.3)
    for step in range(STEPS):
        with torch.no_grad():
            for p, value in zip(params, oracle.params, strict=True):
                p.copy_(value)
        model.zero_grad()
        x, y = batch(step)
        loss_of(model(x.double()), y.double()).backward()
        oracle.set_lr(case.lrs[step] if case.lrs else 1.0)
        oracle.step([p.grad for p in params])
    return oracle.params, oracle.averages


@pytest.mark.parametrize("case", AVERAGES, ids=str)
def test_averages_of_masters_are_shown_and_leave_every_bit_as_it_was(case: Case, pool2: WorkerPool) -> None:
    (trained, evaluated), bound = averaged(case), 2e-6 if case.precision == "fp32" else 2e-2
    assert max(float((a - b).abs().max()) for a, b in zip(trained, evaluated, strict=True)) > 2 * bound
    for found in pool2.run(average, case):
        assert found["same"] == [True] * STEPS
        for name, values in (("weights", trained), ("evaluated", evaluated)):
            assert max(float((t - v).abs().max()) for t, v in zip(found[name], values, strict=True)) < bound, name


def stepping(stage: int) -> str:
    """On every rank: the error of the first step of a method over a torch optimizer."""
    with toys_registered(), Trainer(Case(stage=stage, method="toy_mechanic_torch")) as trainer:
        try:
            trainer.step(0)
        except ValueError as error:
            return str(error)
        return ""


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_a_torch_optimizer_as_direction_is_refused_under_zero(stage: int, pool2: WorkerPool) -> None:
    for said in pool2.run(stepping, stage):
        assert bool(said) is (stage > 0)
        assert not said or "the direction of toy_mechanic_torch is a torch optimizer" in said
        assert not said or said.endswith("elementwise (Adam, Lion, SGD), or shard with FSDP2.")
