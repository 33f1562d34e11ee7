"""The loss of a step over several ranks: its mean, ranks without one, and one that is not finite, against naive references."""

import math
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, distribute_tensor
from torch.distributed.tensor.debug import CommDebugMode

import dadapt_dist as dd
from dadapt_dist import optimizers
from dadapt_dist.sharding import registry
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
    elif way == "first of each":
        optimizer.step(loss=loss if dist.get_rank() % 2 == 0 else None)
    elif way == "almost":
        optimizer.step(loss=loss * (1 + 0.0078 * (dist.get_rank() % 2)))
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


def reference(
    method: str, before: str, bad: dict[int, float | None] | None = None
) -> tuple[list[float], dict[str, Tensor]]:
    """bad: the steps whose mean loss is so many times the right one, or in which nobody gave one."""
    model, judge, seen = Tiny(), Reference(method, lagged=before == "lagged"), []
    full = [p.detach().clone() for p in model.parameters()]
    for step in range(STEPS):
        found = gradients(model, full, step)
        loss = float(loss_of(model, *batch(step)).detach())
        factor = (bad or {}).get(step, 1.0)
        _step(judge, full, found, None if factor is None else loss * factor)
        seen.append(loss)
    return seen, dict(zip([name for name, _ in model.named_parameters()], full, strict=True))


def _step(judge: Reference, xs: list[Tensor], found: list[Tensor | None], loss: float | None) -> None:
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


def spoil(method: str, nonfinite: str) -> list[tuple[bool, float, float, int]]:
    """On the last rank alone, a loss that is NaN, in step 2 of five."""
    job = Job(shard2(Tiny()), *ranks())
    with registrations_undone():
        optimizer = of_toy(method)(job.params(), lr=0.05, nonfinite=nonfinite)
        found = []
        for step in range(5):
            optimizer.zero_grad()
            loss: Any = backward(job, step)
            if step == 2 and dist.get_rank() == 1:
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
    one, other = pools(2).run(spoil, method, nonfinite)
    assert [found[1:] for found in one] == [found[1:] for found in other]
    assert [found[3] for found in one] == [0, 0, 1, 1, 1]
    assert one[2][1:3] == one[1][1:3]
    assert one[3][1:3] != one[2][1:3]
    assert one[2][0] is other[2][0] is (nonfinite == "hold")


# ---------------------------------------------------------------- losses that are refused

BAD = 3  # the step in which they are
Refused = tuple[int, bool, str]  # in which step, did anything move, and what was said


def values_of(job: Job) -> list[Tensor]:
    return [p.detach().clone() for p in job.full().values()]


def wronged(loss: Tensor, wrong: str) -> Tensor | None:
    """What a rank gives in the bad step. The even ranks are the first of each tensor-parallel group of two."""
    first = dist.get_rank() % 2 == 0
    if wrong == "none":
        return None
    return loss * 1.5 if wrong == "apart" and not first else loss


def meet_bad_losses(layout: str, method: str, wrong: str, options: dict[str, Any]) -> dict[str, Any]:
    """Train, give bad losses in step BAD, and take each step that is refused once more, with the right ones."""
    job: Job = LAYOUTS[layout][1]()
    refused: list[Refused] = []
    with registrations_undone():
        optimizer = of_toy(method)(job.params(), lr=0.05, **options)
        for step in range(STEPS):
            optimizer.zero_grad()
            loss = backward(job, step)
            before = values_of(job)
            try:
                optimizer.step(loss=wronged(loss, wrong) if step == BAD else loss)
            except ValueError as error:
                moved = any(map(torch.ne, map(torch.sum, values_of(job)), map(torch.sum, before)))
                refused.append((step, moved, str(error)))
                optimizer.step(loss=loss)
        return {"refused": refused, "params": job.full(), "seen": optimizer.step_size._value("default", "seen")}


EARLY: dict[str, Any] = {}
LAGGED, SKIP = {"before": "lagged"}, {"nonfinite": "skip"}
REFUSED = [
    ("fsdp2", "polyak", "none", EARLY), ("fsdp2", "damped", "none", EARLY), ("fsdp2", "polyak", "none", LAGGED),
    ("ddp", "both", "none", SKIP), ("ddp", "damped", "none", SKIP), ("ddp", "polyak", "none", LAGGED | SKIP),
    ("tp", "polyak", "apart", EARLY), ("tp", "damped", "apart", EARLY), ("tp", "polyak", "apart", LAGGED),
    ("tp", "damped", "apart", SKIP), ("fsdp2 x tp", "polyak", "apart", EARLY), ("ddp x tp", "both", "apart", EARLY),
]  # fmt: skip


@pytest.mark.parametrize(("layout", "method", "wrong", "options"), REFUSED)
def test_bad_losses_are_refused_on_all_ranks_and_the_run_goes_on(
    layout: str, method: str, wrong: str, options: dict[str, Any], pools: Any
) -> None:
    """Before anything moves, where the sums are known by then; else in the step after, whose rate the bad loss may give."""
    results = pools(LAYOUTS[layout][0]).run(meet_bad_losses, layout, method, wrong, options)
    late = "nonfinite" not in options and (method == "damped" or "before" in options)
    bad = {BAD: None if wrong == "none" else 1.25} if late else {}
    losses, params = reference(method, options.get("before", "exact"), bad)
    assert len({str(result["refused"]) for result in results}) == 1
    ((step, moved, said),) = results[0]["refused"]
    assert (step, moved) == (BAD + late, False)
    assert ("no rank gave the loss" if wrong == "none" else "have to see the same batch") in said
    assert ("known only now" if late else "Nothing has moved in this step") in said
    for result in results:
        if options != LAGGED:  # whose last loss is not folded yet on every rank
            assert result["seen"] == pytest.approx(losses[-1], rel=1e-10)
        for name, expected in params.items():
            assert (result["params"][name] - expected).norm() <= 1e-10 * expected.norm(), name


@pytest.mark.parametrize("way", ["almost", "first of each"])
def test_what_is_right_is_not_refused(way: str, pools: Any) -> None:
    """Roundings of low precision, and one rank of each replica that gives the loss for all of it."""
    losses, _ = reference("polyak", "exact")
    for result in pools(4).run(train, "fsdp2 x tp", "polyak", way):
        assert result["seen"] == pytest.approx(losses, rel=1e-2 if way == "almost" else 1e-10)


def meshes() -> dict[str, tuple[int, ...]]:
    """The ranks that are seen to be tensor parallel with this one, under layouts of four."""
    found = {
        name: registry.tensor_parallel_ranks([*LAYOUTS[name][1]().model.parameters()])
        for name in ("ddp", "fsdp2", "hsdp", "tp", "fsdp2 x tp", "ddp x tp")
    }
    line = init_device_mesh("cpu", (4,))
    columns = fully_shard(nn.Linear(8, 8, bias=False), mesh=line, shard_placement_fn=lambda p: Shard(1))
    found["fsdp2 of columns"] = registry.tensor_parallel_ranks([*columns.parameters()])
    for name, axis, shape, dim in (
        ("experts", None, (8, 4, 4), 0), ("rows", None, (8, 8), 0), ("columns", None, (8, 8), 1),
        ("context", "cp", (8, 8), 1), ("model, rows", "model", (8, 8), 0), ("model, columns", "model", (8, 8), 1),
        ("called so", "tp", (8, 8), 0),
    ):  # fmt: skip
        mesh = init_device_mesh("cpu", (4,), mesh_dim_names=None if axis is None else (axis,))
        found[name] = registry.tensor_parallel_ranks([distribute_tensor(torch.ones(shape), mesh, [Shard(dim)])])
    return {name: tuple(ranks) for name, ranks in found.items()}


def test_only_who_is_certain_to_be_tensor_parallel_is_taken_for_it(pools: Any) -> None:
    for rank, found in enumerate(pools(4).run(meshes)):
        pair, everyone = (rank - rank % 2, rank - rank % 2 + 1), (0, 1, 2, 3)
        sure = {name: ranks for name, ranks in found.items() if ranks}
        assert sure == {
            "tp": everyone, "columns": everyone, "model, columns": everyone, "called so": everyone,
            "fsdp2 x tp": pair, "ddp x tp": pair,
        }  # fmt: skip


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
