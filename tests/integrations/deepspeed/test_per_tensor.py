"""ZeRO packs the tensors of a group into one: an estimate for each of them is refused on all ranks, before anything moves."""

import pytest
import torch

import dadapt_dist as dd
from tests.helpers.deepspeed_runs import SUB_GROUP, Case, Trainer
from tests.helpers.pool import WorkerPool

OPTIONS = {"estimates": "per_tensor"}
PACKED = [
    Case(stage=1, options=OPTIONS),
    Case(stage=2, groups=3, options=OPTIONS, entry="json"),
    Case(stage=3, groups=3, sub_group=SUB_GROUP, options=OPTIONS),
    Case(stage=1, precision="bf16+fp32", options=OPTIONS),
]


def attempt(case: Case) -> tuple[str, bool]:
    """On every rank: what the first step raises, and whether the weights are what they were."""
    with Trainer(case) as trainer:
        before = [t.clone() for t in trainer.weights()]
        try:
            trainer.step(0)
        except dd.PlacementError as error:
            return str(error), all(map(torch.equal, trainer.weights(), before))
    return "", False


@pytest.mark.parametrize("case", PACKED, ids=str)
def test_packed_tensors_are_refused(case: Case, pool2: WorkerPool) -> None:
    for said, unmoved in pool2.run(attempt, case):
        assert "a framework has packed them into flat ones" in said
        assert unmoved


def train(case: Case) -> list[dict[str, float]]:
    with Trainer(case) as trainer:
        ds = []
        for step in range(case.steps):
            trainer.step(step)
            ds.append(trainer.base.d)
        return ds  # type: ignore[return-value]


def test_without_zero_every_tensor_has_its_own(pool2: WorkerPool) -> None:
    one, other = pool2.run(train, Case(stage=0, options=OPTIONS))
    assert one == other
    assert len({*one[-1].values()}) > 4
