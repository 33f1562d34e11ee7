"""The average of the weights under several layouts: beside one process, its checkpoints, and the bits of training."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict, set_state_dict
from torch.distributed.tensor import DTensor
from torch.distributed.tensor.debug import CommDebugMode

import dadapt_dist as dd
from tests.helpers.layouts import LAYOUTS, Job, plain_names, ranks, shard2
from tests.helpers.models import Tiny, gradients
from tests.helpers.oracles.dog import DoGOracle

STEPS = 8
KEPT: dict[str, Any] = {"average": 8.0, "reps_rel": 1e-2, "weight_decay": 0.01}
CLASSES = {"DoG": dd.DoG, "LDoG": dd.LDoG}
WAYS = [
    *(("DoG", layout) for layout in ("ddp", "fsdp2", "fsdp1 flat", "fsdp1 orig params", "hsdp", "pipeline")),
    *(("LDoG", layout) for layout in ("ddp", "fsdp2", "tp", "fsdp1 orig params", "fsdp2 cpu offload")),
]
WITHOUT = {2: "head.weight", 5: "head.weight"}  # step -> the tensor that has no gradient in it


def local(t: Tensor) -> Tensor:
    return t.to_local() if isinstance(t, DTensor) else t


def train(layout: str, name: str) -> dict[str, Any]:
    """On every rank: whole parameters in training and in evaluation, and whether evaluation changed a bit of training."""
    job: Job = LAYOUTS[layout][1]()
    optimizer = CLASSES[name](job.params(), **KEPT)
    same, counts = [], []
    for step in range(STEPS):
        optimizer.zero_grad()
        job.backward(step)
        for param, p in plain_names(job.model):
            if param == WITHOUT.get(step) and "flat" not in layout:
                p.grad = None
        optimizer.step()
        tensors = [local(t) for p, state in optimizer.state.items() for t in (p.detach(), *state.values())]
        before = [t.clone() for t in tensors]
        with CommDebugMode() as communication:
            optimizer.eval()
            evaluated = None if step < STEPS - 1 else job.full()
            optimizer.train()
        same.append(all(map(torch.equal, tensors, before)))
        counts.append(communication.get_total_counts() if step < STEPS - 1 else 0)
    return {"params": job.full(), "evaluated": evaluated, "same": all(same), "counts": sum(counts)}


def expected(layout: str, name: str) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Weights and averages of one process."""
    model = Tiny(depth=2 if "pipeline" in layout else 1)
    names = [name for name, _ in model.named_parameters()]
    params = [*model.parameters()]
    apart = [[p] for p in params] if name == "LDoG" else [params]
    oracles = [DoGOracle(tensors, **KEPT) for tensors in apart]
    for step in range(STEPS):
        found = gradients(model, [x for oracle in oracles for x in oracle.params], step)
        given = [
            None if n == WITHOUT.get(step) and "flat" not in layout else g for n, g in zip(names, found, strict=True)
        ]
        for oracle in oracles:
            oracle.step([given.pop(0) for _ in oracle.params])
    weights, averages = (
        [x for oracle in oracles for x in of(oracle)] for of in (lambda o: o.params, lambda o: o.averages)
    )
    return dict(zip(names, weights, strict=True)), dict(zip(names, averages, strict=True))


@pytest.mark.parametrize(("name", "layout"), WAYS)
def test_the_average_is_that_of_one_process(name: str, layout: str, pools: Any) -> None:
    results, (params, averages) = pools(LAYOUTS[layout][0]).run(train, layout, name), expected(layout, name)
    for result in results:
        assert result["same"]
        assert result["counts"] == 0
        for key in params:
            assert (result["params"][key] - params[key]).norm() <= 1e-10 * params[key].norm(), key
            assert (result["evaluated"][key] - averages[key]).norm() <= 1e-10 * averages[key].norm(), key
    assert any((params[key] - averages[key]).norm() > 1e-3 * params[key].norm() for key in params)


def resumed(mode: str, dtype: torch.dtype, flat: bool) -> bool:
    """Whether a run that goes through DCP's state dicts after each step, into a new model and optimizer, keeps the bits."""
    options = StateDictOptions(flatten_optimizer_state_dict=flat)
    jobs = [Job(shard2(Tiny(dtype=dtype)), *ranks(), dtype=dtype) for _ in range(2)]
    one, other = (dd.DoG(job.model.named_parameters(), **KEPT) for job in jobs)
    for step in range(4):
        for job, optimizer in zip(jobs, (one, other), strict=True):
            optimizer.train()
            optimizer.zero_grad()
            job.backward(step)
            optimizer.step()
            if mode == "eval":
                optimizer.eval()
        weights, state = copy.deepcopy(get_state_dict(jobs[1].model, other, options=options))
        jobs[1] = Job(shard2(Tiny(dtype=dtype)), *ranks(), dtype=dtype)
        other = dd.DoG(jobs[1].model.named_parameters(), **KEPT)
        set_state_dict(jobs[1].model, other, model_state_dict=weights, optim_state_dict=state, options=options)
        assert other._mode == mode
    one.train()
    other.train()
    tensors = [
        [local(t) for p in job.model.parameters() for _, t in sorted({"": p, **optimizer.state[p]}.items())]
        for job, optimizer in zip(jobs, (one, other), strict=True)
    ]
    return all(map(torch.equal, *tensors))


@pytest.mark.parametrize(
    ("mode", "dtype", "flat"),
    [
        ("train", torch.bfloat16, False),
        ("eval", torch.float64, True),
        ("eval", torch.bfloat16, False),
        ("eval", torch.bfloat16, True),
    ],
)
def test_a_checkpoint_of_dcp_in_either_mode_goes_on_bit_for_bit(
    mode: str, dtype: torch.dtype, flat: bool, pools: Any
) -> None:
    assert all(pools(2).run(resumed, mode, dtype, flat))


def refused(layout: str) -> str:
    job: Job = LAYOUTS[layout][1]()
    optimizer = dd.LDoG(job.params())
    job.backward(0)
    try:
        optimizer.step()
    except dd.PlacementError as error:
        return str(error)
    return ""


def test_ldog_refuses_packed_tensors_and_says_what_to_do(pools: Any) -> None:
    for said in pools(2).run(refused, "fsdp1 flat"):
        assert said.endswith("or take one d for all, with estimates=None.")
