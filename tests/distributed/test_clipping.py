"""clip_norm over several ranks: the trajectory of one process whose gradients torch clips, for one small reduce a step."""

from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.tensor.debug import CommDebugMode

import dadapt_dist as dd
from dadapt_dist.methods import METHODS
from tests.helpers.classes import ALL, RIDES, parts
from tests.helpers.collectives import reduces, reduces_of
from tests.helpers.layout_runs import depth_of, frozen_in
from tests.helpers.layouts import LAYOUTS, Job, ranks, shard2
from tests.helpers.models import Tiny, gradients
from tests.helpers.oracles import ORACLES

STEPS, NORM = 6, 0.05


def train(layout: str, method: str, before: Any, options: dict[str, Any]) -> dict[str, Any]:
    job: Job = LAYOUTS[layout][1]()
    optimizer: Any = ALL[method](job.params(), clip_norm=NORM, before=before, **options)
    return trained(job, optimizer)


def trained(job: Job, optimizer: Any) -> dict[str, Any]:
    collectives = []
    for step in range(STEPS):
        optimizer.zero_grad()
        job.backward(step)
        with CommDebugMode() as communication:
            optimizer.step()
        collectives.append(reduces(communication.get_comm_counts()))
    return {"params": job.full(), "collectives": collectives[1:], "scalars": scalars_of(optimizer)}


def scalars_of(optimizer: Any) -> str:
    """To the last bit, and NaN is NaN."""
    optimizer.step_size._settle()
    return repr(optimizer.step_size._scalars.fingerprint())


def clipped(grads: list[Any]) -> list[Any]:
    holders = [nn.Parameter(torch.zeros_like(g)) for g in grads if g is not None]
    for holder, g in zip(holders, (g for g in grads if g is not None), strict=True):
        holder.grad = g.clone()
    assert nn.utils.clip_grad_norm_(holders, NORM) > 1.2 * NORM
    found = iter(holders)
    return [None if g is None else next(found).grad for g in grads]


def check(layout: str, method: str, before: str, pools: Any, **given: Any) -> None:
    options = parts(method) | given
    results = pools(LAYOUTS[layout][0]).run(train, layout, method, before, options)
    model = Tiny(depth=depth_of(layout))
    names, frozen = [name for name, _ in model.named_parameters()], frozen_in(layout)
    untrained = [i for i, name in enumerate(names) if name in frozen]
    oracle = ORACLES[method]([*model.parameters()], lagged=before == "lagged", untrained=untrained, **options)
    for step in range(STEPS):
        found = gradients(model, oracle.params, step)
        oracle.step(clipped([None if name in frozen else g for name, g in zip(names, found, strict=True)]))
    rides = before == "exact" and method in RIDES
    assert len({result["scalars"] for result in results}) == 1
    for result in results:
        assert result["collectives"] == [1 - rides + reduces_of(method, lagged=before == "lagged")] * (STEPS - 1)
        for name, expected in zip(names, oracle.params, strict=True):
            if name in result["params"]:
                assert (result["params"][name] - expected).norm() <= 1e-10 * expected.norm(), name


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_norm_is_that_of_the_whole_gradient_under_every_layout(layout: str, pools: Any) -> None:
    check(layout, "prodigy", "exact", pools)


WAYS = [("cocob", "exact"), ("dog", "lagged"), ("momo_adam", "exact"), ("dadapt_sgd", "exact")]
WAYS += [(method, "exact") for method in RIDES]


@pytest.mark.parametrize(("method", "before"), WAYS)
def test_sums_of_before_the_move_see_the_clipped_gradient(method: str, before: str, pools: Any) -> None:
    check("fsdp2 x tp", method, before, pools)


@pytest.mark.parametrize("method", [name for name in RIDES if "weight_decay" in METHODS[name].options.checks()])
def test_without_weight_decay_the_norm_rides_too(method: str, pools: Any) -> None:
    check("fsdp2", method, "exact", pools, weight_decay=0.0)


@pytest.mark.parametrize(("layout", "method"), [("ddp", "dual_averaging"), ("pipeline", "dog"), ("hsdp", "momo")])
def test_the_norm_rides_under_other_layouts(layout: str, method: str, pools: Any) -> None:
    check(layout, method, "exact", pools)


def test_the_norm_rides_where_sums_have_the_coming_update_in_them(pools: Any) -> None:
    check("fsdp2", "mechanic_sgd", "exact", pools, variant="authors", momentum=0.5)


# ---------------------------------------------------------------- ranks with groups of their own


SIZES, DECAYS = (7, 4), (0.5, 0.0)


def gradient_of(x: torch.Tensor, rank: int, step: int) -> torch.Tensor:
    return (x - 3 - rank) * (1 + step) * (1.0, 20.0)[rank]


def train_apart(method: str) -> dict[str, Any]:
    """Each rank holds a tensor of its own, in a group of its own."""
    rank = dist.get_rank()
    p = nn.Parameter(torch.ones(SIZES[rank], dtype=torch.float64))
    decayed = [{"params": [(f"stage{rank}.weight", p)], "weight_decay": DECAYS[rank]}]
    options = parts(method) | {"weight_decay": 0.0}
    optimizer: Any = ALL[method](decayed, clip_norm=NORM, **options)
    collectives = []
    for step in range(STEPS):
        p.grad = gradient_of(p.detach(), rank, step)
        with CommDebugMode() as communication:
            optimizer.step()
        collectives.append(reduces(communication.get_comm_counts()))
    return {"x": p.detach(), "collectives": collectives[1:], "scalars": scalars_of(optimizer)}


@pytest.mark.parametrize("method", [name for name in RIDES if "weight_decay" in METHODS[name].options.checks()])
def test_ranks_whose_groups_differ_start_the_same_collectives(method: str, pools: Any) -> None:
    found = pools(2).run(train_apart, method)
    groups = [{"indices": [rank], "weight_decay": decay} for rank, decay in enumerate(DECAYS)]
    xs = [torch.ones(size, dtype=torch.float64) for size in SIZES]
    oracle = ORACLES[method](xs, groups, **(parts(method) | {"weight_decay": 0.0}))
    for step in range(STEPS):
        oracle.step(clipped([gradient_of(x, rank, step) for rank, x in enumerate(oracle.params)]))
    assert found[0]["scalars"] == found[1]["scalars"]
    for result, expected in zip(found, oracle.params, strict=True):
        assert result["collectives"] == [reduces_of(method)] * (STEPS - 1)
        torch.testing.assert_close(result["x"], expected, rtol=1e-10, atol=0)


def train_each() -> dict[str, Any]:
    job = Job(shard2(Tiny()), *ranks())
    optimizer: Any = dd.LDoG(job.model.named_parameters(), clip_norm=NORM, reps_rel=1e-3, weight_decay=0.01)
    return trained(job, optimizer)


def test_one_norm_rides_with_the_sums_of_each_tensor(pools: Any) -> None:
    results = pools(2).run(train_each)
    model = Tiny()
    oracles = {name: ORACLES["dog"]([p], reps_rel=1e-3, weight_decay=0.01) for name, p in model.named_parameters()}
    for step in range(STEPS):
        grads = clipped(gradients(model, [oracle.params[0] for oracle in oracles.values()], step))
        for oracle, g in zip(oracles.values(), grads, strict=True):
            oracle.step([g])
    assert results[0]["scalars"] == results[1]["scalars"]
    for result in results:
        assert result["collectives"] == [1] * (STEPS - 1)
        for name, oracle in oracles.items():
            torch.testing.assert_close(result["params"][name], oracle.params[0], rtol=1e-10, atol=1e-14)


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
