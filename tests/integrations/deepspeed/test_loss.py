"""A loss that is set on the optimizer before `engine.step()` reaches a method once a step, in however many calls it comes."""

from typing import Any

import pytest
import torch.distributed as dist
from torch import Tensor

import dadapt_dist as dd
from dadapt_dist.engine import loss_channel
from tests.helpers import deepspeed_runs
from tests.helpers.deepspeed_runs import BATCH, SUB_GROUP, Case, Trainer, loss_of
from tests.helpers.loss_methods import of_toy
from tests.helpers.pool import WorkerPool
from tests.helpers.registered import registrations_undone

CASES = [Case(stage=0, method="early"), *(Case(stage=s, groups=3, sub_group=SUB_GROUP, method="early") for s in (1, 3))]


def train(case: Case) -> tuple[list[float], list[float], list[float], list[int]]:
    """On every rank: the losses seen, the true means, the counts that travelled, and the calls of step() in each step."""
    counts: list[float] = []

    class Counting(loss_channel.LossReport):
        def take(self, columns: dict[str, Tensor], *rest: Any) -> Tensor:
            counts.append(float(columns["losses"][0]))
            return super().take(columns, *rest)

    with registrations_undone():
        deepspeed_runs.ALL["early"], deepspeed_runs.OPTIONS["early"] = of_toy("early"), {}
        try:
            with Trainer(case) as trainer:
                trainer.base.step_size._scalars._losses = Counting()
                seen, means, calls = [], [], []
                for step in range(case.steps):
                    before, n = trainer.calls, BATCH // dist.get_world_size()
                    at = slice(dist.get_rank() * n, (dist.get_rank() + 1) * n)
                    x, y = deepspeed_runs.batch(step)
                    loss = loss_of(trainer.engine(x[at]), y[at])
                    trainer.engine.backward(loss)
                    dd.base_optimizer(trainer.engine).loss = loss
                    trainer.engine.step()
                    mean = loss.detach().clone()
                    dist.all_reduce(mean)
                    means.append(float(mean) / dist.get_world_size())
                    seen.append(trainer.base.step_size._value("default", "seen"))
                    calls.append(trainer.calls - before)
                return seen, means, counts, calls
        finally:
            del deepspeed_runs.ALL["early"], deepspeed_runs.OPTIONS["early"]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_loss_counts_once_a_step(case: Case, pool2: WorkerPool) -> None:
    for seen, means, counts, calls in pool2.run(train, case):
        assert seen == pytest.approx(means, rel=1e-6)
        assert counts == [2.0] * case.steps
        assert min(calls) == max(calls) >= (3 if case.stage else 1)
        assert len({*means}) == case.steps
