"""The averaged iterate of dual averaging on sharded weights: what evaluation shows on every rank, and what trains afterwards."""

from typing import Any

import pytest
import torch

import dadapt_dist as dd
from tests.helpers.layouts import LAYOUTS
from tests.helpers.models import Tiny, gradients
from tests.helpers.oracles.dual_averaging import DualAveragingOracle

STEPS = 5
OPTIONS = {"d0": 0.05, "average": True}


def train(layouts: list[str], before: Any) -> list[dict[str, Any]]:
    """Of each layout, on every rank: whole parameters in training, in evaluation, and in training again."""
    found = []
    for layout in layouts:
        job = LAYOUTS[layout][1]()
        optimizer = dd.DualAveraging(job.params(), before=before, **OPTIONS)
        for step in range(STEPS):
            optimizer.zero_grad()
            job.backward(step)
            optimizer.step()
        seen = {"last": job.full()}
        optimizer.eval()
        seen["average"] = job.full()
        optimizer.train()
        found.append(seen | {"again": job.full()})
    return found


@pytest.mark.parametrize("before", ["exact", "lagged"])
def test_every_rank_evaluates_the_average_of_one_process(before: str, pools: Any) -> None:
    model = Tiny()
    oracle = DualAveragingOracle([*model.parameters()], lagged=before == "lagged", **OPTIONS)
    for step in range(STEPS):
        oracle.step([*gradients(model, oracle.params, step)])
    names = [name for name, _ in model.named_parameters()]
    wanted = {"last": oracle.params, "average": oracle.averages(), "again": oracle.params}
    for result in pools(2).run(train, ["ddp", "fsdp2", "fsdp1 flat"], before):
        for seen in result:
            for what, expected in wanted.items():
                for name, t in zip(names, expected, strict=True):
                    torch.testing.assert_close(seen[what][name], t, rtol=1e-10, atol=1e-13, msg=f"{what} {name}")
