"""Mechanic and TRAC around a base under sharding: the fused forms' numbers, one reduce a step, checkpoints, what is refused."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict, set_state_dict
from torch.distributed.tensor import DTensor
from torch.distributed.tensor.debug import CommDebugMode

import dadapt_dist as dd
from tests.helpers.collectives import reduces
from tests.helpers.layouts import LAYOUTS, Job
from tests.helpers.models import Tiny, gradients
from tests.helpers.oracles import ORACLES

STEPS = 8
DECAY = 0.01
WAYS = ["ddp", "fsdp2", "fsdp1 flat", "fsdp1 orig params", "tp"]
RULES: dict[str, tuple[Callable[..., Any], str, dict[str, Any]]] = {
    "mechanic": (dd.Mechanic, "mechanic_adam", {"s_init": 1e-4}),
    "mechanic of the authors": (dd.Mechanic, "mechanic_adam", {"s_init": 1e-6, "variant": "authors"}),
    "trac, recomputed": (dd.TRAC, "trac_adam", {"s_init": 1e-6, "delta": "recomputed"}),
}


def build(job: Job, rule: str, **shared: Any) -> Any:
    cls, _, options = RULES[rule]
    return cls(torch.optim.AdamW(job.params(), lr=1.0, weight_decay=DECAY), **options, **shared)


def take(job: Job, optimizer: Any, step: int) -> int:
    optimizer.zero_grad()
    job.backward(step)
    with CommDebugMode() as communication:
        optimizer.step()
    return reduces(communication.get_comm_counts())


def train(layout: str, rule: str, before: Any) -> dict[str, Any]:
    job = LAYOUTS[layout][1]()
    optimizer, ds, collectives = build(job, rule, before=before), [], []
    for step in range(STEPS):
        collectives.append(take(job, optimizer, step))
        ds.append(float(optimizer.d).hex())
    return {"d": ds, "collectives": collectives, "params": job.full()}


def expected(rule: str, lagged: bool) -> Any:
    model = Tiny()
    names = [name for name, _ in model.named_parameters()]
    _, method, options = RULES[rule]
    made = ORACLES[method]([p.detach() for p in model.parameters()], weight_decay=DECAY, lagged=lagged, **options)
    for step in range(STEPS):
        made.step(list(gradients(model, made.params, step)))
    return made.d, dict(zip(names, made.params, strict=True))


@pytest.mark.parametrize(
    ("layout", "rule", "before"),
    [
        *((layout, "mechanic", "exact") for layout in WAYS),
        ("fsdp2", "mechanic", "lagged"),
        ("fsdp2", "mechanic of the authors", "exact"),
        ("fsdp1 flat", "mechanic of the authors", "lagged"),
        ("fsdp2", "trac, recomputed", "exact"),
    ],
)
def test_a_wrapped_base_gives_the_numbers_of_one_process_on_all_ranks(
    layout: str, rule: str, before: str, pools: Any
) -> None:
    d, params = expected(rule, before == "lagged")
    results = pools(LAYOUTS[layout][0]).run(train, layout, rule, before)
    for result in results:
        assert result["d"] == results[0]["d"]
        assert float.fromhex(result["d"][-1]) == pytest.approx(d, rel=1e-9)
        assert result["collectives"][1:] == [1] * (STEPS - 1)
        for name, value in params.items():
            assert (result["params"][name] - value).norm() <= 1e-9 * value.norm(), name


def resumed(layout: str) -> bool:
    """Whether a run that is saved after each step, and loaded by DCP into a new model and optimizer, keeps the bits."""
    make, options = LAYOUTS[layout][1], StateDictOptions(flatten_optimizer_state_dict=True)
    jobs = [make() for _ in range(2)]
    one, other = (build(job, "mechanic") for job in jobs)
    for step in range(4):
        for job, optimizer in zip(jobs, (one, other), strict=True):
            take(job, optimizer, step)
        kept = copy.deepcopy(get_state_dict(jobs[1].model, other, options=options))
        jobs[1] = make()
        other = build(jobs[1], "mechanic")
        set_state_dict(jobs[1].model, other, model_state_dict=kept[0], optim_state_dict=kept[1], options=options)
    pairs = zip(jobs[0].model.parameters(), jobs[1].model.parameters(), strict=True)
    local = [[t.to_local() if isinstance(t, DTensor) else t for t in pair] for pair in pairs]
    return one.d == other.d and all(torch.equal(a, b) for a, b in local)


@pytest.mark.parametrize("layout", ["fsdp2", "fsdp1 orig params"])
def test_a_wrapped_base_goes_on_from_a_checkpoint_of_dcp_bit_for_bit(layout: str, pools: Any) -> None:
    assert all(pools(2).run(resumed, layout))


def refused(layout: str) -> tuple[str, bool]:
    job = LAYOUTS[layout][1]()
    matrices = [p for p in job.model.parameters() if p.ndim == 2 and p.numel()]
    optimizer = dd.Mechanic(torch.optim.Muon(matrices, lr=1.0))
    before = job.full()
    job.backward(0)
    try:
        optimizer.step()
    except ValueError as error:
        return str(error), all(torch.equal(value, before[name]) for name, value in job.full().items())
    return "", not all(torch.equal(value, before[name]) for name, value in job.full().items())


def test_a_base_of_whole_matrices_is_refused_where_they_are_cut_and_serves_where_not(pools: Any) -> None:
    for text, still in pools(2).run(refused, "fsdp2"):
        assert "mechanic cannot learn the learning rate of Muon, which looks at whole tensors while parameter" in text
        assert "Train with DDP" in text
        assert still
    assert pools(2).run(refused, "ddp") == [("", True)] * 2
