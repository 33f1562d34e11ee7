"""One estimate a tensor under several layouts: each tensor follows an oracle of its own, in the one collective of a step."""

import copy
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.tensor.debug import CommDebugMode

import dadapt_dist as dd
from tests.helpers.classes import ALL, ALWAYS_BEFORE, WITH_D, first_d
from tests.helpers.collectives import reduces, reduces_of
from tests.helpers.layouts import LAYOUTS, Job, plain_names, ranks, shard2
from tests.helpers.models import Tiny, gradients
from tests.helpers.oracles import ORACLES

ALLOWED = {"dadapt_adam": 1e-9}  # its first steps divide by a v next to 0; the others keep to 1e-10
STEPS = 10
WAYS = [*((name, "exact") for name in WITH_D), *((name, "lagged") for name in ALWAYS_BEFORE if name in WITH_D)]


def train(layout: str, method: str, before: Any) -> dict[str, Any]:
    job: Job = LAYOUTS[layout][1]()
    names = [name for name, _ in plain_names(job.model)]
    params = zip(names, job.model.parameters(), strict=True)
    optimizer = ALL[method](params, estimates="per_tensor", before=before, **first_d(method, 1e-3))
    ds, collectives = [], []
    for step in range(STEPS):
        optimizer.zero_grad()
        job.backward(step)
        with CommDebugMode() as communication:
            optimizer.step()
        collectives.append(reduces(communication.get_comm_counts()))
        ds.append(optimizer.d)
    return {"d": ds, "params": job.full(), "collectives": collectives[1:]}


def reference(method: str, before: str) -> tuple[list[dict[str, float]], dict[str, torch.Tensor]]:
    model, lagged = Tiny(), before == "lagged"
    oracles = {
        name: ORACLES[method]([p], lagged=lagged, **first_d(method, 1e-3)) for name, p in model.named_parameters()
    }
    ds = []
    for step in range(STEPS):
        found = gradients(model, [oracle.params[0] for oracle in oracles.values()], step)
        for oracle, g in zip(oracles.values(), found, strict=True):
            oracle.step([g])
        ds.append({name: oracle.d for name, oracle in oracles.items()})
    return ds, {name: oracle.params[0] for name, oracle in oracles.items()}


@pytest.mark.parametrize(("method", "before"), WAYS)
@pytest.mark.parametrize("layout", ["ddp", "fsdp2", "tp", "hsdp", "fsdp2 x tp", "fsdp1 orig params"])
def test_each_tensor_follows_an_oracle_of_its_own(layout: str, method: str, before: str, pools: Any) -> None:
    results = pools(LAYOUTS[layout][0]).run(train, layout, method, before)
    ds, params = reference(method, before)
    for result in results:
        assert result["d"] == results[0]["d"], "d differs between ranks"
        assert result["collectives"] == [reduces_of(method, lagged=before == "lagged")] * (STEPS - 1)
        for found, expected in zip(result["d"], ds, strict=True):
            assert found == pytest.approx(expected, rel=1e-10)
        for name, expected in params.items():
            assert (result["params"][name] - expected).norm() <= ALLOWED.get(method, 1e-10) * expected.norm(), name
    assert len({*ds[-1].values()}) > 5, "the tensors have one d: the comparison would be empty"


def attempt(layout: str) -> str:
    job: Job = LAYOUTS[layout][1]()
    optimizer = dd.Prodigy(job.params(), estimates="per_tensor")
    job.backward(0)
    before = [p.detach().clone() for p in job.model.parameters()]
    try:
        optimizer.step()
    except dd.PlacementError as error:
        assert all(torch.equal(p, q) for p, q in zip(job.model.parameters(), before, strict=True))
        return str(error)
    return ""


@pytest.mark.parametrize(
    ("layout", "why"),
    [
        ("fsdp1 flat", "a framework has packed them into flat ones.*use_orig_params=True"),
        ("pipeline", 'estimates="per_tensor" cannot be had there: it needs the same tensors, by name, on every rank'),
    ],
)
def test_what_cannot_be_right_is_refused_on_all_ranks(layout: str, why: str, pools: Any) -> None:
    import re

    for said in pools(2).run(attempt, layout):
        assert re.search(why, said), said


def resumed(flat: bool) -> bool:
    """Through torch.distributed.checkpoint's state dicts after each step, into a new optimizer."""
    jobs = [Job(shard2(Tiny()), *ranks()) for _ in range(2)]
    build = lambda job: dd.Prodigy(job.model.named_parameters(), d0=1e-3, estimates="per_tensor")  # noqa: E731
    one, other = map(build, jobs)
    options = StateDictOptions(flatten_optimizer_state_dict=flat)
    for step in range(6):
        for job, optimizer in zip(jobs, (one, other), strict=True):
            optimizer.zero_grad()
            job.backward(step)
            optimizer.step()
        saved = copy.deepcopy(get_optimizer_state_dict(jobs[1].model, other, options=options))
        other = build(jobs[1])
        jobs[1].model.zero_grad()  # torch creates no state beside gradients
        set_optimizer_state_dict(jobs[1].model, other, saved, options=options)
        assert other.d == one.d
    pairs = zip(jobs[0].model.parameters(), jobs[1].model.parameters(), strict=True)
    return all(torch.equal(p.to_local(), q.to_local()) for p, q in pairs)


@pytest.mark.parametrize("flat", [False, True])
def test_a_distributed_checkpoint_after_every_step_changes_nothing(flat: bool, pools: Any) -> None:
    assert all(pools(2).run(resumed, flat))


def through_files(folder: str, save: bool) -> dict[str, float]:
    """Saved by torch.distributed.checkpoint on two ranks, loaded on four: d of each tensor."""
    import torch.distributed.checkpoint as dcp

    job = Job(shard2(Tiny()), *ranks())
    optimizer = dd.Prodigy(job.model.named_parameters(), d0=1e-3, estimates="per_tensor")
    if save:
        for step in range(4):
            optimizer.zero_grad()
            job.backward(step)
            optimizer.step()
        dcp.save({"optimizer": get_optimizer_state_dict(job.model, optimizer)}, checkpoint_id=folder)
        return optimizer.d  # type: ignore[return-value]
    state = {"optimizer": get_optimizer_state_dict(job.model, optimizer)}
    dcp.load(state, checkpoint_id=folder)
    set_optimizer_state_dict(job.model, optimizer, state["optimizer"])
    job.backward(4)
    found = optimizer.d
    optimizer.step()
    return found  # type: ignore[return-value]


def test_files_of_two_ranks_load_on_four(tmp_path: Any, pools: Any) -> None:
    saved = pools(2).run(through_files, str(tmp_path), True)
    loaded = pools(4).run(through_files, str(tmp_path), False)
    assert [*saved, *loaded] == [saved[0]] * 6
    assert len({*saved[0].values()}) > 5


def set_apart() -> list[float]:
    """d of one tensor is set on rank 0 alone: held, on both ranks."""
    job = Job(shard2(Tiny()), *ranks())
    optimizer = dd.Prodigy(job.model.named_parameters(), d0=1e-3, estimates="per_tensor")
    name = next(iter(optimizer.d))  # type: ignore[arg-type]
    found = []
    for step in range(4):
        optimizer.zero_grad()
        job.backward(step)
        if step == 2 and dist.get_rank() == 0:
            optimizer.set_d(0.5, estimate=name)
        optimizer.step()
        found.append(float(optimizer.step_size.held_steps))
    return found


def test_a_d_that_is_set_on_one_rank_alone_holds_them_all(pools: Any) -> None:
    assert pools(2).run(set_apart) == [[0, 0, 1, 2]] * 2
