"""Methods with a direction, under every layout, against their slow forms: steps, checkpoints, evaluation, NaN."""

import copy
import math
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict, set_state_dict
from torch.distributed.tensor import DTensor
from torch.distributed.tensor.debug import CommDebugMode

from tests.helpers.collectives import reduces
from tests.helpers.layouts import LAYOUTS, Job
from tests.helpers.models import Tiny, batch, gradients, loss_of
from tests.helpers.toy_methods import OPTIONS, REFERENCES, TOYS, Reference, toys_registered

STEPS = 12
WAYS = ["ddp", "fsdp2", "fsdp1 flat", "fsdp1 orig params", "fsdp2 frozen params", "tp"]
FROZEN = frozenset({"blocks.0.norm.weight", "blocks.0.norm.bias", "inp.bias"})


def local(t: Tensor) -> Tensor:
    return t.to_local() if isinstance(t, DTensor) else t


class Expected:
    """A slow form over the whole of `Tiny`, with the gradients of the one-process loss."""

    def __init__(self, method: str, frozen: frozenset[str] = frozenset()) -> None:
        self.model = Tiny()
        self.names = [name for name, _ in self.model.named_parameters()]
        self.values = {name: p.detach().clone() for name, p in self.model.named_parameters()}
        self.trained = [name for name in self.names if name not in frozen]
        self.reference: Reference = REFERENCES[method](self.flat(self.values))

    def flat(self, of: dict[str, Any]) -> Tensor:
        return torch.cat([of[name].flatten() for name in self.trained])

    def whole(self, x: Tensor) -> dict[str, Tensor]:
        parts = x.split([self.values[name].numel() for name in self.trained])
        found = {name: part.view_as(self.values[name]) for name, part in zip(self.trained, parts, strict=True)}
        return self.values | found

    def step(self, step: int, freeze_after: int = STEPS) -> None:
        at = self.whole(self.reference.x)
        found = gradients(self.model, [at[name] for name in self.names], step)
        self.reference.step(self.flat(dict(zip(self.names, found, strict=True))), frozen=step >= freeze_after)

    def loss(self, x: Tensor, step: int) -> float:
        with torch.no_grad():
            for name, p in self.model.named_parameters():
                p.copy_(self.whole(x)[name])
        return loss_of(self.model, *batch(step)).item()


def build(job: Job, method: str, cls: Any, **options: Any) -> Any:
    return cls(job.params(), **OPTIONS[method], **options)


def take(job: Job, optimizer: Any, step: int) -> int:
    """One step; how many reduces of the optimizer it took."""
    optimizer.zero_grad()
    job.backward(step)
    with CommDebugMode() as communication:
        optimizer.step()
    return reduces(communication.get_comm_counts())


def train(layout: str, method: str, freeze_after: int | None) -> dict[str, Any]:
    """On every rank: the rate and the reduces of each step, whole parameters in training and in evaluation."""
    with toys_registered() as toys:
        job = LAYOUTS[layout][1]()
        optimizer = build(job, method, toys[method], freeze_after=freeze_after)
        rates, collectives = [], []
        for step in range(STEPS):
            collectives.append(take(job, optimizer, step))
            rates.append(optimizer.effective_lr[0])
        found = {"rates": rates, "collectives": collectives, "params": job.full()}
        with CommDebugMode() as communication:
            optimizer.eval()
        found["of eval"] = communication.get_total_counts()
        found["evaluated"] = job.full()
    return found


@pytest.mark.one_in(2)
@pytest.mark.parametrize("freeze_after", [None, 5])
@pytest.mark.parametrize("method", TOYS)
@pytest.mark.parametrize("layout", WAYS)
def test_methods_with_a_direction_follow_one_process(
    layout: str, method: str, freeze_after: int | None, pools: Any
) -> None:
    results = pools(LAYOUTS[layout][0]).run(train, layout, method, freeze_after)
    expected = Expected(method, FROZEN if "frozen" in layout else frozenset())
    rates = []
    for step in range(STEPS):
        expected.step(step, freeze_after or STEPS)
        rates.append(expected.reference.estimate())
    params, evaluated = (expected.whole(x) for x in (expected.reference.x, expected.reference.evaluated()))
    for result in results:
        assert [rate.hex() for rate in result["rates"]] == [rate.hex() for rate in results[0]["rates"]]
        assert max(abs(a / b - 1) for a, b in zip(result["rates"], rates, strict=True)) < 1e-10
        each = 0 if method == "averaged_sgd" else 1
        assert result["collectives"][1:] == [each * (step < (freeze_after or STEPS)) for step in range(1, STEPS)]
        assert result["of eval"] == 0
        for name in params:
            assert (result["params"][name] - params[name]).norm() <= 1e-10 * params[name].norm(), name
            assert (result["evaluated"][name] - evaluated[name]).norm() <= 1e-10 * evaluated[name].norm(), name
            assert torch.equal(result["params"][name], results[0]["params"][name]), name


def spoil(method: str) -> list[Any]:
    """On every rank, under FSDP2: a NaN on the last rank in step 0 and 3; whether all is finite, and what was held."""
    with toys_registered() as toys:
        job = LAYOUTS["fsdp2"][1]()
        optimizer = build(job, method, toys[method])
        for step in range(6):
            optimizer.zero_grad()
            job.backward(step)
            if step in (0, 3) and dist.get_rank() == 1:
                local(next(p.grad for p in job.model.parameters() if local(p.grad).numel())).view(-1)[0] = math.nan
            optimizer.step()
        states = [t for state in optimizer.state.values() for t in state.values() if isinstance(t, Tensor)]
        finite = all(bool(torch.isfinite(local(t)).all()) for t in (*job.model.parameters(), *states))
        scalars = {
            name: value.tolist() for name, value in optimizer.step_size._scalars.values.items() if name != "held"
        }
        return [finite, scalars, optimizer.step_size.held_steps]


@pytest.mark.parametrize("method", TOYS)
def test_a_nan_of_one_rank_poisons_no_scalar_of_any(method: str, pools: Any) -> None:
    results = pools(2).run(spoil, method)
    for finite, scalars, held in results:
        assert finite
        assert scalars == results[0][1]
        assert "nan" not in str(scalars)
        assert held == 2 or method == "averaged_sgd"  # whose ranks count their own


def resumed(layout: str, method: str, mode: str) -> bool:
    """Whether a run that is saved after each step, and loaded by DCP into a new model and optimizer, keeps the bits."""
    with toys_registered() as toys:
        make, options = LAYOUTS[layout][1], StateDictOptions(flatten_optimizer_state_dict=layout != "ddp")
        jobs = [make() for _ in range(2)]
        one, other = (build(job, method, toys[method]) for job in jobs)
        for step in range(5):
            for job, optimizer in zip(jobs, (one, other), strict=True):
                optimizer.train()
                take(job, optimizer, step)
                if mode == "eval":
                    optimizer.eval()
            kept = copy.deepcopy(get_state_dict(jobs[1].model, other, options=options))
            jobs[1] = make()
            other = build(jobs[1], method, toys[method])
            set_state_dict(jobs[1].model, other, model_state_dict=kept[0], optim_state_dict=kept[1], options=options)
            if mode == "eval" and method == "averaged_sgd":
                assert other._mode == "eval"
        pairs = zip(jobs[0].model.parameters(), jobs[1].model.parameters(), strict=True)
        states = [
            {name: local(t) for name, t in optimizer.state[p].items()}
            for job, optimizer in zip(jobs, (one, other), strict=True)
            for p in job.model.parameters()
            if local(p).numel()  # FSDP1 drops the state of the others
        ]
        half = len(states) // 2
        alike = all(
            a.keys() == b.keys() and all(torch.equal(a[n], b[n]) for n in a)
            for a, b in zip(states[:half], states[half:], strict=True)
        )
        return alike and all(torch.equal(local(p), local(q)) for p, q in pairs)


@pytest.mark.one_in(4)
@pytest.mark.parametrize("mode", ["train", "eval"])
@pytest.mark.parametrize("method", TOYS)
@pytest.mark.parametrize("layout", ["ddp", "fsdp2", "fsdp1 orig params"])
def test_a_checkpoint_of_dcp_in_either_mode_goes_on_bit_for_bit(
    layout: str, method: str, mode: str, pools: Any
) -> None:
    assert all(pools(2).run(resumed, layout, method, mode))


def switching(layout: str) -> list[Any]:
    """On every rank: the loss at the evaluated weights after each step, and whole parameters at the end."""
    with toys_registered() as toys:
        job = LAYOUTS[layout][1]()
        optimizer = build(job, "averaged_sgd", toys["averaged_sgd"])
        losses = []
        for step in range(STEPS):
            take(job, optimizer, step)
            optimizer.eval()
            optimizer.eval()
            with torch.no_grad():
                losses.append(loss_of(job.model, *batch(100 + step)).item())
            with pytest.raises(RuntimeError, match=r"evaluation mode.*optimizer\.train\(\)"):
                optimizer.step()
            optimizer.train(False)
            optimizer.train()
        return [losses, job.full()]


@pytest.mark.one_in(2)
@pytest.mark.parametrize(
    "layout",
    [
        "ddp",
        "fsdp2",
        "hsdp",
        "fsdp1 flat",
        "fsdp1 orig params",
        "fsdp1 SHARD_GRAD_OP",
        "fsdp1 NO_SHARD",
        "fsdp2 cpu offload",
    ],
)
def test_the_model_computes_with_the_weights_of_the_mode(layout: str, pools: Any) -> None:
    results = pools(LAYOUTS[layout][0]).run(switching, layout)
    expected, losses = Expected("averaged_sgd"), []
    for step in range(STEPS):
        expected.step(step)
        losses.append(expected.loss(expected.reference.evaluated(), 100 + step))
    for found, params in results:
        assert found == pytest.approx(losses, rel=1e-12)
        for name, value in expected.whole(expected.reference.x).items():
            assert (params[name] - value).norm() <= 1e-12 * value.norm(), name
