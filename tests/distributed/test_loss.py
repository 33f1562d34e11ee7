"""The loss of a step over several ranks: its mean, ranks without one, and one that is not finite, against naive references."""

import math
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor, Partial, Replicate
from torch.distributed.tensor.debug import CommDebugMode

import dadapt_dist as dd
from dadapt_dist import optimizers
from tests.helpers.collectives import reduces
from tests.helpers.layouts import LAYOUTS, Job, ranks, shard2
from tests.helpers.loss_methods import Reference, of_toy
from tests.helpers.models import Tiny, batch, gradients, loss_of, part
from tests.helpers.oracles import ORACLES
from tests.helpers.registered import registrations_undone

STEPS = 8
WAYS = [("polyak", "exact"), ("polyak", "lagged"), ("damped", "exact"), ("both", "exact"), ("early", "exact")]
REDUCES = {"polyak": 1, "damped": 1, "both": 2, "early": 2}


def backward(job: Job, step: int) -> Tensor:
    """The loss of this rank, whose gradients are then in the parameters."""
    x, y = batch(step)
    loss = loss_of(job.model, part(x, job.dp_rank, job.dp_size), part(y, job.dp_rank, job.dp_size))
    loss.backward()
    job.after_backward()
    return loss


def give(optimizer: Any, loss: Tensor, way: str) -> None:
    if way == "closure":
        optimizer.step(lambda: loss)
    elif way == "attribute":
        optimizer.loss = loss
        optimizer.step()
    elif way == "last rank":
        optimizer.step(loss=loss if dist.get_rank() == dist.get_world_size() - 1 else None)
    else:
        optimizer.step(loss=loss)


def train(layout: str, method: str, way: str, **options: Any) -> dict[str, Any]:
    job: Job = LAYOUTS[layout][1]()
    with registrations_undone():
        optimizer = of_toy(method)(job.params(), lr=0.05, **options)
        seen, collectives = [], []
        for step in range(STEPS):
            optimizer.zero_grad()
            loss = backward(job, step)
            with CommDebugMode() as communication:
                give(optimizer, loss, way)
            collectives.append(reduces(communication.get_comm_counts()))
            seen.append(optimizer.step_size._value("default", "seen"))
        return {"seen": seen, "params": job.full(), "collectives": collectives[1:]}


def reference(method: str, before: str) -> tuple[list[float], dict[str, Tensor]]:
    model, judge, seen = Tiny(), Reference(method, lagged=before == "lagged"), []
    full = [p.detach().clone() for p in model.parameters()]
    for step in range(STEPS):
        found = gradients(model, full, step)
        loss = float(loss_of(model, *batch(step)).detach())
        _step(judge, full, found, loss)
        seen.append(loss)
    return seen, dict(zip([name for name, _ in model.named_parameters()], full, strict=True))


def _step(judge: Reference, xs: list[Tensor], found: list[Tensor | None], loss: float) -> None:
    """A step of the reference with lr 0.05: its own moves a copy by the whole rate."""
    moved = [x.clone() for x in xs]
    judge.step(moved, [g for g in found if g is not None], loss)
    for x, whole in zip(xs, moved, strict=True):
        x.lerp_(whole, 0.05)


@pytest.mark.parametrize(("method", "before"), WAYS)
@pytest.mark.parametrize("layout", ["ddp", "fsdp2", "tp", "fsdp2 x tp", "fsdp1 flat"])
def test_a_method_sees_the_mean_loss_under_every_layout(layout: str, method: str, before: str, pools: Any) -> None:
    """Ranks of one replica hold one loss (tp), others different ones: the mean over all ranks is that over replicas."""
    results = pools(LAYOUTS[layout][0]).run(train, layout, method, "keyword", before=before)
    losses, params = reference(method, before)
    for result in results:
        assert [x.hex() for x in result["seen"]] == [x.hex() for x in results[0]["seen"]]
        assert result["seen"] == pytest.approx(losses, rel=1e-10)
        assert result["collectives"] == [REDUCES[method]] * (STEPS - 1)
        for name, expected in params.items():
            assert (result["params"][name] - expected).norm() <= 1e-10 * expected.norm(), name
    assert losses[-1] < 0.9 * losses[0], "nothing trained: the comparison would be empty"


@pytest.mark.parametrize("way", ["closure", "attribute", "last rank"])
@pytest.mark.parametrize("options", [{}, {"nonfinite": "skip"}, {"before": "lagged"}, {"sync": "step"}])
def test_every_way_and_setting_gives_the_same(way: str, options: dict[str, Any], pools: Any) -> None:
    """Under tensor parallelism all ranks hold the loss, so that one of them may give it alone, as in a pipeline."""
    method = "polyak" if "before" in options else "early"
    losses, params = reference(method, options.get("before", "exact"))
    for result in pools(2).run(train, "tp", method, way, **options):
        assert result["seen"] == pytest.approx(losses, rel=1e-10)
        for name, expected in params.items():
            assert (result["params"][name] - expected).norm() <= 1e-10 * expected.norm(), name


def spoil(method: str, nonfinite: str, what: str) -> list[tuple[bool, float, float, int]]:
    """On the last rank alone, a loss that is NaN, or on all ranks none, in step 2 of five."""
    job = Job(shard2(Tiny()), *ranks())
    with registrations_undone():
        optimizer = of_toy(method)(job.params(), lr=0.05, nonfinite=nonfinite)
        found = []
        for step in range(5):
            optimizer.zero_grad()
            loss: Any = backward(job, step)
            if step == 2 and what == "none":
                loss = None
            elif step == 2 and dist.get_rank() == 1:
                loss = math.nan
            before = [p.detach().clone() for p in job.model.parameters()]
            optimizer.step(loss=loss)
            moved = any(
                not torch.equal(p.detach().to_local(), q.to_local())
                for p, q in zip(job.model.parameters(), before, strict=True)
            )
            values = [optimizer.step_size._value("default", name) for name in ("rate", "seen")]
            found.append((moved, *values, optimizer.step_size.held_steps))
        return found  # type: ignore[return-value]


@pytest.mark.parametrize("nonfinite", ["hold", "skip"])
@pytest.mark.parametrize("method", ["polyak", "damped", "both", "early"])
def test_a_loss_that_is_not_finite_on_one_rank_holds_all_alike(method: str, nonfinite: str, pools: Any) -> None:
    one, other = pools(2).run(spoil, method, nonfinite, "nan")
    assert [found[1:] for found in one] == [found[1:] for found in other]
    assert [found[3] for found in one] == [0, 0, 1, 1, 1]
    assert one[2][1:3] == one[1][1:3]
    assert one[3][1:3] != one[2][1:3]
    assert one[2][0] is other[2][0] is (nonfinite == "hold")


@pytest.mark.parametrize("method", ["polyak", "damped"])
def test_without_any_loss_the_estimate_stays_on_all_ranks(method: str, pools: Any) -> None:
    one, other = pools(2).run(spoil, method, "hold", "none")
    assert [found[1:] for found in one] == [found[1:] for found in other]
    assert [found[3] for found in one] == [0] * 5, "nothing was not finite"
    assert one[2][1:3] == one[1][1:3]
    assert one[3][1:3] != one[2][1:3]


def distributed_losses() -> tuple[float, str]:
    job = Job(shard2(Tiny()), *ranks())
    mesh = next(job.model.parameters()).device_mesh  # type: ignore[attr-defined]
    with registrations_undone():
        optimizer = of_toy("polyak")(job.params(), lr=0.05)
        loss = backward(job, 0)
        optimizer.loss = DTensor.from_local(torch.tensor(3.0), mesh, [Replicate()])
        optimizer.step()
        seen = optimizer.step_size._value("default", "seen")
        try:
            optimizer.step(loss=DTensor.from_local(loss.detach(), mesh, [Partial()]))
        except TypeError as error:
            return seen, str(error)
    return seen, ""


def test_a_distributed_loss_is_taken_where_every_rank_has_it_whole(pools: Any) -> None:
    for seen, said in pools(2).run(distributed_losses):
        assert seen == 3.0
        assert said.endswith("a part of it on each rank: give loss.full_tensor()")


def shared() -> list[float]:
    """Two optimizers with one StepSize: rank 0 gives 1 and 2, rank 1 nothing and 6."""
    job = Job(shard2(Tiny()), *ranks())
    params = [*job.model.parameters()]
    step_size = dd.StepSize()
    with registrations_undone():
        pair = [of_toy("damped")(half, lr=0.05, step_size=step_size) for half in (params[:3], params[3:])]
        seen = []
        for step in range(3):
            backward(job, step)
            for optimizer, loss in zip(pair, [(1.0, 2.0), (None, 6.0)][dist.get_rank()], strict=True):
                optimizer.step(loss=loss)
            seen.append(step_size._value("default", "seen"))
        return seen


def test_optimizers_that_share_a_step_size_share_the_mean_over_all_that_gave_one(pools: Any) -> None:
    assert pools(2).run(shared) == [[3.0] * 3] * 2


def train_method(layout: str, method: str, options: dict[str, Any]) -> dict[str, Any]:
    job: Job = LAYOUTS[layout][1]()
    optimizer: Any = optimizers.of_method(method)(job.params(), **options)
    collectives = []
    for step in range(STEPS):
        optimizer.zero_grad()
        loss = backward(job, step)
        with CommDebugMode() as communication:
            optimizer.step(loss=loss)
        collectives.append(reduces(communication.get_comm_counts()))
    return {
        "params": job.full(),
        "collectives": collectives[1:],
        "share": optimizer.step_size._value("default", "share"),
    }


@pytest.mark.parametrize(("method", "options"), [("ngn", {}), ("momo", {"cap": 20.0}), ("momo_adam", {"cap": 1.0})])
@pytest.mark.parametrize("layout", ["ddp", "fsdp2 x tp"])
def test_methods_of_the_loss_follow_one_process_that_sees_the_whole_batch(
    layout: str, method: str, options: dict[str, Any], pools: Any
) -> None:
    results, model = pools(LAYOUTS[layout][0]).run(train_method, layout, method, options), Tiny()
    oracle = ORACLES[method]([*model.parameters()], **options)
    for step in range(STEPS):
        found = gradients(model, oracle.params, step)
        oracle.loss = loss_of(model, *batch(step)).item()
        oracle.step(found)
    names = [name for name, _ in model.named_parameters()]
    for result in results:
        assert result["share"].hex() == results[0]["share"].hex()
        assert result["collectives"] == [1] * (STEPS - 1)
        for name, expected in zip(names, oracle.params, strict=True):
            assert (result["params"][name] - expected).norm() <= 1e-10 * expected.norm(), name
    assert results[0]["share"] < 1.0
