"""The norms of gradients over several ranks: those of the whole batch under every layout, in the reduce that there is anyway."""

from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch.distributed.tensor.debug import CommDebugMode

from dadapt_dist import optimizers
from dadapt_dist.errors import PlacementError
from tests.helpers.collectives import reduces
from tests.helpers.layouts import LAYOUTS, Job
from tests.helpers.models import Tiny, gradients

STEPS = 3
METHODS = ("prodigy", "cocob")  # sums after the move, and none


def norms(layout: str, options: dict[str, Any]) -> dict[str, Any]:
    """Of each method, the norms and the reduces of its steps; lr is so small that the model stays where it is."""
    found = {}
    for method in METHODS:
        job: Job = LAYOUTS[layout][1]()
        optimizer: Any = optimizers.of_method(method)(job.params(), lr=1e-14, grad_norms=True, **options)
        seen, collectives = [], []
        for step in range(STEPS):
            optimizer.zero_grad()
            job.backward(step)
            with CommDebugMode() as communication:
                optimizer.step()
            collectives.append(reduces(communication.get_comm_counts()))
            seen.append(optimizer.grad_norms)
        found[method] = (seen, collectives[1:], job.depth)
    return found


@pytest.mark.parametrize("layout", ["ddp", "fsdp1 flat", "fsdp2", "fsdp2 x tp", "hsdp", "pipeline x ddp"])
def test_they_are_those_of_the_whole_batch_on_every_rank(layout: str, pools: Any) -> None:
    for found in pools(LAYOUTS[layout][0]).run(norms, layout, {}):
        for seen, collectives, depth in found.values():
            check(seen, depth)
            assert collectives == [1] * (STEPS - 1)


def test_where_the_sums_are_needed_in_the_step_they_come_with_them(pools: Any) -> None:
    for found in pools(2).run(norms, "fsdp2", {"nonfinite": "skip"}):
        for seen, collectives, depth in found.values():
            check(seen, depth)
            assert collectives == [1] * (STEPS - 1)


def check(seen: list[dict[str, float]], depth: int) -> None:
    model = Tiny(depth=depth)
    values = [p.detach().clone() for p in model.parameters()]
    for step, found in enumerate(seen):
        flat = torch.cat([g.flatten() for g in gradients(model, values, step) if g is not None])
        assert found["grad_norm_l1"] == pytest.approx(float(flat.abs().sum()), rel=1e-10)
        assert found["grad_norm"] == pytest.approx(float(flat.norm()), rel=1e-10)


def apart() -> str:
    job: Job = LAYOUTS["ddp"][1]()
    optimizer: Any = optimizers.of_method("prodigy")(job.params(), grad_norms=dist.get_rank() == 0)
    job.backward(0)
    try:
        optimizer.step()
    except PlacementError as error:
        return str(error)
    return ""


def test_ranks_that_want_them_and_ranks_that_do_not_are_told_so(pools: Any) -> None:
    for text in pools(2).run(apart):
        assert "grad_norms" in text
