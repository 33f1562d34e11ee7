"""Sums before the weights move, exact and lagged, and methods without sums: bad gradients, freezing, checkpoints, reduces."""

import copy
import math
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch.distributed.tensor import DTensor
from torch.distributed.tensor.debug import CommDebugMode

import dadapt_dist as dd
from dadapt_dist.methods import METHODS
from tests.helpers.classes import ALL, WITH_BEFORE, WITH_D, WITHOUT_SUMS, estimate_of, parts
from tests.helpers.collectives import reduces, reduces_of
from tests.helpers.layout_runs import WAYS
from tests.helpers.layouts import Job, ranks, shard2
from tests.helpers.models import Tiny

PHASES = [way for way in WAYS if way[0] in (*WITH_BEFORE, *WITHOUT_SUMS)]


def build(method: str, params: Any, before: Any, **shared: Any) -> dd.LearningRateFree:
    made: dd.LearningRateFree = ALL[method](params, before=before, **shared, **parts(method))  # type: ignore[call-arg]
    return made


def local(t: torch.Tensor) -> torch.Tensor:
    return t.to_local() if isinstance(t, DTensor) else t


def spoil(method: str, nonfinite: Any, before: Any) -> dict[str, Any]:
    """Under FSDP2: one NaN on the last rank in step 3. What moved in it, and what is finite at the end."""
    job = Job(shard2(Tiny()), *ranks())
    optimizer = build(method, job.params(), before, nonfinite=nonfinite)
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
@pytest.mark.parametrize(("method", "before"), PHASES)
def test_a_gradient_that_is_not_finite_poisons_nothing(method: str, before: str, nonfinite: str, pools: Any) -> None:
    results = pools(2).run(spoil, method, nonfinite, before)
    for result in results:
        assert result["finite"]
        moved, same = result["seen"][3]
        assert moved is (nonfinite == "hold")
        if method in WITH_D:
            assert same
            assert result["held"] == 1
            assert result["d"].hex() == results[0]["d"].hex()
        assert all(moved for moved, _ in result["seen"][4:])
    assert max(result["held"] for result in results) == 1  # ranks without sums count their own


def freeze(method: str, before: Any) -> dict[str, Any]:
    job = Job(shard2(Tiny()), *ranks())
    optimizer = build(method, job.params(), before, freeze_after=4)
    ds, collectives = [], []
    for step in range(8):
        optimizer.zero_grad()
        job.backward(step)
        with CommDebugMode() as communication:
            optimizer.step()
        collectives.append(reduces(communication.get_comm_counts()))
        ds.append((estimate_of(optimizer), optimizer.effective_lr[0]))
    return {"d": ds, "collectives": collectives, "k": optimizer.step_size._value("default", "k")}


@pytest.mark.parametrize(("method", "before"), [way for way in PHASES if way[0] in WITH_BEFORE])
def test_a_frozen_estimate_keeps_its_rate_and_reduces_no_more(method: str, before: str, pools: Any) -> None:
    for result in pools(2).run(freeze, method, before):
        assert result["collectives"][4:] == [reduces_of(method, lagged=before == "lagged", frozen=True)] * 4 == [0] * 4
        assert len(set(result["d"][3:])) == 1
        assert result["d"][3] != result["d"][2]
        assert result["k"] == (7 if (method, before) == ("dadapt_sgd", "lagged") else 8)  # the first only measures


def first_steps(ways: list[tuple[str, str]]) -> list[list[int]]:
    """The reduces of the first two steps, for each method."""
    found = []
    for method, before in ways:
        job, counts = Job(shard2(Tiny()), *ranks()), []
        optimizer = build(method, job.params(), before)
        for step in range(2):
            optimizer.zero_grad()
            job.backward(step)
            with CommDebugMode() as communication:
                optimizer.step()
            counts.append(reduces(communication.get_comm_counts()))
        found.append(counts)
    return found


def test_the_first_step_takes_one_reduce_more_for_each_phase_before_the_move(pools: Any) -> None:
    """Lagged, they ride in the one that all steps have; placing takes those that a method without sums has too."""
    ways = [way for way in WAYS if way[0] in METHODS]
    seen = dict(zip(ways, pools(2).run(first_steps, ways)[0], strict=True))
    placing = seen["cocob", "exact"][0]
    for (method, before), (first, second) in seen.items():
        phases = METHODS[method].start, METHODS[method].before, METHODS[method].after
        number = sum(phase is not None for phase in phases)
        assert first - placing == (min(number, 1) if before == "lagged" else number), method
        assert second == reduces_of(method, lagged=before == "lagged")


def resumed(method: str, before: Any) -> bool:
    """Does a run that is saved after each of its steps and loaded into a new optimizer go on with the same bits?"""
    jobs = [Job(shard2(Tiny()), *ranks()) for _ in range(2)]
    one, other = (build(method, job.params(), before) for job in jobs)
    for step in range(6):
        for job, optimizer in zip(jobs, (one, other), strict=True):
            optimizer.zero_grad()
            job.backward(step)
            optimizer.step()
        saved = copy.deepcopy(other.state_dict())
        other = build(method, jobs[1].params(), before)
        other.load_state_dict(saved)
    pairs = zip(jobs[0].model.parameters(), jobs[1].model.parameters(), strict=True)
    return all(torch.equal(local(p), local(q)) for p, q in pairs) and (one.d == other.d or method not in WITH_D)


@pytest.mark.parametrize(("method", "before"), PHASES)
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
    assert "freeze_after, nonfinite, before, grad_norms, clip_norm)" in texts[0]
