"""Sums before the weights move and methods without sums, under every layout: DoG and COCOB against their oracles."""

import copy
import math
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch.distributed.tensor import DTensor
from torch.distributed.tensor.debug import CommDebugMode

import dadapt_dist as dd
from tests.helpers.collectives import reduces
from tests.helpers.layouts import LAYOUTS, Job, ranks, shard2
from tests.helpers.models import Tiny, gradients
from tests.helpers.oracles.cocob import COCOBOracle
from tests.helpers.oracles.dadapt_sgd import DAdaptSGDOracle
from tests.helpers.oracles.dog import DoGOracle

STEPS = 10
METHODS: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "dog": (dd.DoG, DoGOracle, {"reps_rel": 1e-3, "weight_decay": 0.01}),
    "cocob": (dd.COCOB, COCOBOracle, {"weight_decay": 0.01}),
    "dadapt_sgd": (dd.DAdaptSGD, DAdaptSGDOracle, {"d0": 1e-3}),
}
WAYS = [("dog", "exact"), ("dog", "lagged"), ("cocob", "exact"), ("dadapt_sgd", "lagged")]


def local(t: torch.Tensor) -> torch.Tensor:
    return t.to_local() if isinstance(t, DTensor) else t


def train(layout: str, method: str, before: Any, steps: int = STEPS) -> dict[str, Any]:
    """On every rank: d after each step, whole parameters, and the reduces of each step."""
    job: Job = LAYOUTS[layout][1]()
    cls, _, options = METHODS[method]
    optimizer = cls(job.params(), before=before, **options)
    ds, collectives = [], []
    for step in range(steps):
        optimizer.zero_grad()
        job.backward(step)
        with CommDebugMode() as communication:
            optimizer.step()
        counts = communication.get_comm_counts()
        collectives.append(sum(number for op, number in counts.items() if "c10d." in str(op)))
        assert step == 0 or collectives[-1] == reduces(counts)
        ds.append(optimizer.d)
    return {"d": ds, "params": job.full(), "collectives": collectives}


def reference(method: str, before: str, depth: int, frozen: frozenset[str]) -> tuple[list[float], dict[str, Any]]:
    model = Tiny(depth=depth)
    names = [name for name, _ in model.named_parameters()]
    _, make, options = METHODS[method]
    trained = [name for name in names if name not in frozen]
    params = dict(model.named_parameters())
    oracle = make(
        [params[name] for name in trained], **options, **({"lagged": before == "lagged"} if method != "cocob" else {})
    )
    ds, full = [], [p.detach().clone() for p in model.parameters()]
    for step in range(STEPS):
        for name, x in zip(trained, oracle.params, strict=True):
            full[names.index(name)] = x.clone()
        found = dict(zip(names, gradients(model, full, step), strict=True))
        oracle.step([found[name] for name in trained])
        ds.append(oracle.latest if method == "dog" else oracle.d if method != "cocob" else math.nan)
    for name, x in zip(trained, oracle.params, strict=True):
        full[names.index(name)] = x
    return ds, dict(zip(names, full, strict=True))


@pytest.mark.parametrize(("method", "before"), WAYS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_phases_under_every_layout_follow_one_process(layout: str, method: str, before: str, pools: Any) -> None:
    results = pools(LAYOUTS[layout][0]).run(train, layout, method, before)
    frozen = (
        frozenset({"blocks.0.norm.weight", "blocks.0.norm.bias", "inp.bias"}) if "frozen" in layout else frozenset()
    )
    ds, params = reference(method, before, 2 if "pipeline" in layout else 1, frozen)
    for result in results:
        assert [d.hex() for d in result["d"]] == [d.hex() for d in results[0]["d"]], "d differs between ranks"
        assert result["collectives"][1:] == [0 if method == "cocob" else 1] * (STEPS - 1)
        if method != "cocob":
            assert max(abs(d / expected - 1) for d, expected in zip(result["d"], ds, strict=True)) < 1e-10
        for name, expected in params.items():
            assert (result["params"][name] - expected).norm() <= 1e-10 * expected.norm(), name
    assert method == "cocob" or ds[-1] > 2 * ds[0], "d never moved: the comparison would be empty"


def spoil(method: str, nonfinite: Any, before: Any) -> dict[str, Any]:
    """Under FSDP2: one NaN on the last rank in step 3. What moved in it, and what is finite at the end."""
    job = Job(shard2(Tiny()), *ranks())
    cls, _, options = METHODS[method]
    optimizer = cls(job.params(), before=before, nonfinite=nonfinite, **options)
    seen: list[Any] = []
    for step in range(6):
        optimizer.zero_grad()
        job.backward(step)
        if step == 3 and dist.get_rank() == 1:
            local(next(p.grad for p in job.model.parameters() if local(p.grad).numel())).view(-1)[0] = math.nan
        was = [local(p).detach().clone() for p in job.model.parameters()], optimizer.d
        optimizer.step()
        moved = any(not torch.equal(local(p), w) for p, w in zip(job.model.parameters(), was[0], strict=True))
        seen.append((moved, optimizer.d == was[1]))
    finite = all(bool(torch.isfinite(local(p)).all()) for p in job.model.parameters())
    finite &= all(bool(torch.isfinite(local(t)).all()) for s in optimizer.state.values() for t in s.values())
    return {"seen": seen, "finite": finite, "held": optimizer.step_size.held_steps, "d": optimizer.d}


@pytest.mark.parametrize("nonfinite", ["hold", "skip"])
@pytest.mark.parametrize(("method", "before"), WAYS)
def test_a_gradient_that_is_not_finite_poisons_nothing(method: str, before: str, nonfinite: str, pools: Any) -> None:
    results = pools(2).run(spoil, method, nonfinite, before)
    for result in results:
        assert result["finite"]
        moved, same = result["seen"][3]
        assert moved is (nonfinite == "hold")
        if method != "cocob":
            assert same
            assert result["held"] == 1
            assert result["d"].hex() == results[0]["d"].hex()
        assert all(moved for moved, _ in result["seen"][4:])
    assert max(result["held"] for result in results) == 1  # COCOB's ranks count their own


def freeze(method: str, before: Any) -> dict[str, Any]:
    job = Job(shard2(Tiny()), *ranks())
    cls, _, options = METHODS[method]
    optimizer = cls(job.params(), before=before, freeze_after=4, **options)
    ds, collectives = [], []
    for step in range(8):
        optimizer.zero_grad()
        job.backward(step)
        with CommDebugMode() as communication:
            optimizer.step()
        collectives.append(reduces(communication.get_comm_counts()))
        ds.append((optimizer.d, optimizer.effective_lr[0]))
    return {"d": ds, "collectives": collectives, "k": optimizer.step_size.value("default", "k")}


@pytest.mark.parametrize("before", ["exact", "lagged"])
def test_a_frozen_dog_keeps_its_rate_and_reduces_no_more(before: str, pools: Any) -> None:
    for result in pools(2).run(freeze, "dog", before):
        assert result["collectives"][4:] == [0] * 4
        assert len(set(result["d"][3:])) == 1
        assert result["d"][3] != result["d"][2]
        assert result["k"] == 8


def resumed(method: str, before: Any) -> bool:
    """Does a run that is saved after each of its steps and loaded into a new optimizer go on with the same bits?"""
    cls, _, options = METHODS[method]
    jobs = [Job(shard2(Tiny()), *ranks()) for _ in range(2)]
    one, other = (cls(job.params(), before=before, **options) for job in jobs)
    for step in range(6):
        for job, optimizer in zip(jobs, (one, other), strict=True):
            optimizer.zero_grad()
            job.backward(step)
            optimizer.step()
        saved = copy.deepcopy(other.state_dict())
        other = cls(jobs[1].params(), before=before, **options)
        other.load_state_dict(saved)
    pairs = zip(jobs[0].model.parameters(), jobs[1].model.parameters(), strict=True)
    return all(torch.equal(local(p), local(q)) for p, q in pairs) and (one.d == other.d or method == "cocob")


@pytest.mark.parametrize(("method", "before"), WAYS)
def test_a_checkpoint_after_every_step_changes_nothing(method: str, before: str, pools: Any) -> None:
    assert all(pools(2).run(resumed, method, before))


def disagree() -> str:
    """One rank reduces before the weights move, the other not: neither may wait for what the other never sends."""
    job = Job(shard2(Tiny()), *ranks())
    optimizer = dd.DoG(job.params(), before=("exact", "lagged")[dist.get_rank()])  # type: ignore[arg-type]
    job.backward(0)
    try:
        optimizer.step()
    except dd.PlacementError as error:
        return str(error)
    return ""


def test_ranks_that_differ_in_before_are_refused_alike(pools: Any) -> None:
    texts = pools(2).run(disagree)
    assert texts[0] == texts[1]
    assert "freeze_after, nonfinite, before)" in texts[0]
