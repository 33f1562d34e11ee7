"""Methods with a direction, under every layout, against their slow forms: steps, checkpoints, evaluation, NaN."""

from typing import Any

import pytest
import torch
from torch import Tensor
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
        each = 0 if method.startswith("schedule") else 1
        assert result["collectives"][1:] == [each * (step < (freeze_after or STEPS)) for step in range(1, STEPS)]
        assert result["of eval"] == 0
        for name in params:
            assert (result["params"][name] - params[name]).norm() <= 1e-10 * params[name].norm(), name
            assert (result["evaluated"][name] - evaluated[name]).norm() <= 1e-10 * evaluated[name].norm(), name
            assert torch.equal(result["params"][name], results[0]["params"][name]), name


def switching(layout: str) -> list[Any]:
    """On every rank: the loss at the evaluated weights after each step, and whole parameters at the end."""
    with toys_registered() as toys:
        job = LAYOUTS[layout][1]()
        optimizer = build(job, "schedule_free_sgd", toys["schedule_free_sgd"])
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
    expected, losses = Expected("schedule_free_sgd"), []
    for step in range(STEPS):
        expected.step(step)
        losses.append(expected.loss(expected.reference.evaluated(), 100 + step))
    for found, params in results:
        assert found == pytest.approx(losses, rel=1e-12)
        for name, value in expected.whole(expected.reference.x).items():
            assert (params[name] - value).norm() <= 1e-12 * value.norm(), name
