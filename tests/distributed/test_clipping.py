"""clip_norm over several ranks: the trajectory of one process whose gradients torch clips, for one small reduce a step."""

from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.tensor.debug import CommDebugMode

import dadapt_dist as dd
from tests.helpers.classes import ALL, parts
from tests.helpers.collectives import reduces, reduces_of
from tests.helpers.layout_runs import depth_of, frozen_in
from tests.helpers.layouts import LAYOUTS, Job, ranks, shard2
from tests.helpers.models import Tiny, gradients
from tests.helpers.oracles import ORACLES

STEPS, NORM = 6, 0.05
# Methods whose reduce of before the move brings the norm with it.
RIDES = {"trac_adam", "schedule_free_plus"}


def train(layout: str, method: str, before: Any) -> dict[str, Any]:
    job: Job = LAYOUTS[layout][1]()
    optimizer: Any = ALL[method](job.params(), clip_norm=NORM, before=before, **parts(method))
    collectives = []
    for step in range(STEPS):
        optimizer.zero_grad()
        job.backward(step)
        with CommDebugMode() as communication:
            optimizer.step()
        collectives.append(reduces(communication.get_comm_counts()))
    return {"params": job.full(), "collectives": collectives[1:]}


def clipped(grads: list[Any]) -> list[Any]:
    holders = [nn.Parameter(torch.zeros_like(g)) for g in grads if g is not None]
    for holder, g in zip(holders, (g for g in grads if g is not None), strict=True):
        holder.grad = g.clone()
    assert nn.utils.clip_grad_norm_(holders, NORM) > 1.2 * NORM
    found = iter(holders)
    return [None if g is None else next(found).grad for g in grads]


def check(layout: str, method: str, before: str, pools: Any) -> None:
    results = pools(LAYOUTS[layout][0]).run(train, layout, method, before)
    model = Tiny(depth=depth_of(layout))
    names, frozen = [name for name, _ in model.named_parameters()], frozen_in(layout)
    untrained = [i for i, name in enumerate(names) if name in frozen]
    oracle = ORACLES[method]([*model.parameters()], lagged=before == "lagged", untrained=untrained, **parts(method))
    for step in range(STEPS):
        found = gradients(model, oracle.params, step)
        oracle.step(clipped([None if name in frozen else g for name, g in zip(names, found, strict=True)]))
    rides = before == "exact" and method in RIDES
    for result in results:
        assert result["collectives"] == [1 - rides + reduces_of(method, lagged=before == "lagged")] * (STEPS - 1)
        for name, expected in zip(names, oracle.params, strict=True):
            if name in result["params"]:
                assert (result["params"][name] - expected).norm() <= 1e-10 * expected.norm(), name


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_norm_is_that_of_the_whole_gradient_under_every_layout(layout: str, pools: Any) -> None:
    check(layout, "prodigy", "exact", pools)


WAYS = [("cocob", "exact"), ("dog", "exact"), ("dog", "lagged"), ("momo_adam", "exact"), ("dadapt_sgd", "exact")]
WAYS += [(method, "exact") for method in sorted(RIDES)]


@pytest.mark.parametrize(("method", "before"), WAYS)
def test_sums_of_before_the_move_see_the_clipped_gradient(method: str, before: str, pools: Any) -> None:
    check("fsdp2 x tp", method, before, pools)


def differ() -> str:
    job = Job(shard2(Tiny()), *ranks())
    optimizer = dd.Prodigy(job.params(), clip_norm=(1.0, None)[dist.get_rank()])
    job.backward(0)
    try:
        optimizer.step()
    except dd.PlacementError as error:
        return str(error)
    return ""


def test_ranks_that_do_not_all_clip_are_refused_alike(pools: Any) -> None:
    texts = pools(2).run(differ)
    assert texts[0] == texts[1]
    assert "nonfinite, before, grad_norms, clip_norm)" in texts[0]
