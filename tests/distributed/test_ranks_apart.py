"""Check that ranks that hold or do different things train correctly or report it, and never hang."""

import gc
import logging
import weakref
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import Shard, distribute_tensor

import dadapt_dist as dd
from dadapt_dist.comm import async_all_reduce
from dadapt_dist.sharding import replicated
from tests.helpers.layouts import fsdp1
from tests.helpers.oracles import ORACLES
from tests.helpers.placed import expected, message, tensor, train


def one_sided(*, frozen: bool) -> list[Any]:
    """Rank 0 has nothing to train: no parameters at all, or frozen ones. Checkpoints are taken on the way."""
    model = nn.Linear(3, 2).double()
    model.requires_grad_(not (frozen and dist.get_rank() == 0))
    params = [] if not frozen and dist.get_rank() == 0 else list(model.parameters())
    optimizer = dd.DAdaptSGD([{"params": params}], d0=1e-3)
    ds: list[Any] = []
    for step in range(5):
        for index, p in enumerate(p for p in params if p.requires_grad):
            p.grad = tensor(f"p{index}", *p.shape, step=step)
        optimizer.step()
        if frozen:
            get_optimizer_state_dict(model, optimizer)
        ds.append(optimizer.d)
    return ds


@pytest.mark.parametrize("frozen", [False, True], ids=["no parameters", "frozen parameters"])
def test_a_rank_with_nothing_to_train_takes_part_in_every_step(frozen: bool, pools: Any) -> None:
    """A pipeline stage may be empty or frozen.

    It used to stay out of the placement, and checkpoint tools, which step an optimizer that has no state, made it take a
    step on its own.
    """
    torch.manual_seed(0)
    first, second = pools(2).run(one_sided, frozen=frozen)
    assert first == second
    oracle = ORACLES["dadapt_sgd"]([torch.zeros(2, 3), torch.zeros(2)], d0=1e-3)
    for step in range(5):
        oracle.step([tensor("p0", 2, 3, step=step), tensor("p1", 2, step=step)])
    assert first[-1] == pytest.approx(oracle.d, rel=1e-12)
    assert oracle.d > 1.5e-3


def extra_step() -> tuple[list[float], list[str]]:
    """Rank 1 leaves a step out: an exception in its window, which the loop catches."""
    p = nn.Parameter(tensor("w", 4))
    optimizer = dd.Prodigy([p], d0=1e-3)
    seen: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: seen.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger("dadapt_dist").addHandler(handler)
    ds = []
    for step in range(6):
        p.grad = tensor("w", 4, step=step)
        try:
            with optimizer.step_size.window():
                if step == 2 and dist.get_rank() == 1:
                    raise KeyError("bad batch")
                optimizer.step()
        except KeyError:
            continue
        if step != 2:
            ds.append(optimizer.d)
    if dist.get_rank() == 1:  # the others have one reduce more under way
        with optimizer.step_size.window():
            optimizer.step()
    optimizer.step_size._finish()
    logging.getLogger("dadapt_dist").removeHandler(handler)
    return ds, seen


def test_ranks_in_different_steps_hold_d_and_say_so(pools: Any) -> None:
    """Sums of different steps used to be added up in silence: each later d was that of the step before on one rank."""
    for ds, seen in pools(2).run(extra_step):
        assert ds[0] < ds[1]
        assert set(ds[2:]) == {ds[1]}, "d moved by sums of different steps"
        assert any("different steps" in text for text in seen)


class Heard(logging.Handler):
    """What the package logs while it is open."""

    def __enter__(self) -> list[str]:
        self.texts: list[str] = []
        logging.getLogger("dadapt_dist").addHandler(self)
        return self.texts

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(record.getMessage())

    def __exit__(self, *_: object) -> None:
        logging.getLogger("dadapt_dist").removeHandler(self)


def left_out(kind: str, number: int, reading: bool = False) -> tuple[list[float], list[float], list[str]]:
    """Rank 1 takes no step with a batch that it does not like, or two with another, under collectives of the model's own.

    reading: d is read after every step, which waits for sums that do not come.
    """
    usual, async_all_reduce.READING = async_all_reduce.READING, 0.5
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 1)).double()
    wrapped: nn.Module = nn.parallel.DistributedDataParallel(model) if kind == "ddp" else fully_shard(model)
    optimizer = dd.Prodigy(model.parameters(), d0=1e-3)
    ds, norms = [], []
    with Heard() as texts:
        for step in range(12):
            x = tensor("x", 16, 6, step=2 * step + dist.get_rank())
            (wrapped(x) - x.sum(1, keepdim=True)).square().mean().backward()
            for _ in range(number if step == 5 and dist.get_rank() == 1 else 1):
                optimizer.step()
            optimizer.zero_grad()
            if reading:
                assert optimizer.d == float(optimizer.param_groups[0]["d"]) > 0
            ds.append(float(optimizer.step_size._scalars.values["d"]))  # without waiting for the others
            norms.append(float(sum(getattr(p, "_local_tensor", p).detach().norm() for p in model.parameters())))
        assert optimizer.d == ds[-1]
    async_all_reduce.READING = usual
    return ds, norms, texts


def stages_with_collectives_of_their_own() -> tuple[float, float, list[str]]:
    """Two stages; what is done between two steps takes as many as two steps of the first, none of the second. d, right, said."""
    rank = dist.get_rank()
    groups = [dist.new_group([0]), dist.new_group([1])]
    name = f"stage{rank}"
    p = nn.Parameter(tensor(name, 6))
    optimizer = dd.Prodigy([(name, p)], d0=1e-3)
    oracle = ORACLES["prodigy"]([tensor("stage0", 6), tensor("stage1", 6)], d0=1e-3)
    with Heard() as texts:
        for step in range(12):
            for _ in range({4: 4 * (1 - rank), 7: 0}.get(step, 2)):
                dist.all_reduce(torch.zeros(1), group=groups[rank])
            p.grad = tensor(name, 6, step=step)
            optimizer.step()
            oracle.step([tensor("stage0", 6, step=step), tensor("stage1", 6, step=step)])
    return optimizer.d, oracle.d, texts


def test_stages_may_have_collectives_of_their_own(pools: Any) -> None:
    """An evaluation, or a step in which a stage has nothing to do: d was held for ever, and an error blamed left-out steps."""
    for d, right, texts in pools(2).run(stages_with_collectives_of_their_own):
        assert d == pytest.approx(right, rel=1e-12)
        assert d > 2e-3
        assert texts == []


@pytest.mark.parametrize(("kind", "number"), [("ddp", 0), ("fsdp2", 0), ("ddp", 2)])
def test_a_rank_that_takes_no_step_or_two_holds_d_and_training_goes_on(kind: str, number: int, pools: Any) -> None:
    """The sums shared the model's process group: the next all-gather was answered by a reduce, or nobody answered it.

    Two steps with one batch went unseen, and the reduce of the last waited for nobody.
    """
    first, second = pools(2).run(left_out, kind, number)
    assert first[0][-1] == second[0][-1] > 1e-3
    for ds, norms, texts in (first, second):
        assert len(set(ds[6:])) == 1
        assert len(set(norms[6:])) == 6, "the parameters no longer train"
        assert len(texts) == 1
        assert "were in different steps" in texts[0]


@pytest.mark.parametrize("kind", ["ddp", "fsdp2"])
def test_reading_d_does_not_wait_for_a_rank_that_left_out_the_step(kind: str, pools: Any) -> None:
    """It waits for this one, in the backward pass of the model: they stood still until the timeout."""
    (ds, norms, texts), (others, _, _) = pools(2).run(left_out, kind, 0, True)
    assert ds[-1] == others[-1] > 1e-3
    assert len(set(ds[6:])) == len(set(others[6:])) == 1
    assert len(set(norms[6:])) == 6, "the parameters no longer train"
    assert sum("d was read, and the sums of step 5 have not come" in text for text in texts) == 1
    assert sum("were in different steps" in text for text in texts) == 1


def changed_option(name: str, value: Any) -> tuple[list[float], list[str]]:
    p = nn.Parameter(tensor("w", 4))
    optimizer = dd.Prodigy([p], d0=1e-3)
    ds = []
    with Heard() as texts:
        for step in range(10):
            if dist.get_rank() == 1 and step == 4:
                optimizer.param_groups[0][name] = value
            p.grad = tensor("w", 4, step=0)
            optimizer.step()
            ds.append(optimizer.d)
    return ds, texts


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("d_coef", 2.0), ("growth_rate", 1.02), ("betas", (0.8, 0.99)), ("lr", 0.5), ("lr", torch.tensor(0.5)), ("lr", 0.0),
        ("weight_decay", 0.1), ("eps", 1e-6), ("layer_scale", 0.5), ("safeguard_warmup", True),
    ],
)  # fmt: skip
def test_an_option_that_changes_on_one_rank_holds_d_and_is_named(name: str, value: Any, pools: Any) -> None:
    """d used to differ between ranks from then on, in silence."""
    results = pools(2).run(changed_option, name, value)
    assert results[0][0] == results[1][0]
    ds, _ = results[0]
    assert 1e-3 < ds[3] == ds[-1]
    for _, texts in results:
        assert len(texts) == 1
        assert f"have different options: {name}. The step size is held" in texts[0]


def scalar_set() -> tuple[list[float], list[str]]:
    """Rank 1 sets d, and rank 0 does so two steps later."""
    p = nn.Parameter(tensor("w", 4))
    optimizer = dd.Prodigy([p], d0=1e-3)
    ds = []
    with Heard() as texts:
        for step in range(8):
            if step == 3 + 2 * (dist.get_rank() == 0):
                optimizer.param_groups[0]["d"] = 0.05
            p.grad = tensor("w", 4, step=0)
            optimizer.step()
            ds.append(optimizer.d)
    return ds, texts


def test_d_set_on_one_rank_is_held_and_named_until_the_others_set_it_too(pools: Any) -> None:
    """It differed between the ranks from then on, in silence."""
    (first, texts), (second, _) = pools(2).run(scalar_set)
    assert [text.split(": ")[1].split(".")[0] for text in texts] == ["d"]
    assert first[2] == first[4] < second[3] == 0.05
    assert first[5:] == second[5:]
    assert first[-1] >= 0.05


def agreed_again() -> list[float]:
    p = nn.Parameter(tensor("w", 4))
    optimizer = dd.Prodigy([p], d0=1e-3)
    ds = []
    for step in range(10):
        optimizer.param_groups[0]["lr"] = 1.0 if step != 4 or dist.get_rank() == 0 else 0.5
        p.grad = tensor("w", 4, step=0)
        optimizer.step()
        ds.append(optimizer.d)
    return ds


def test_d_moves_again_when_the_ranks_agree_again(pools: Any) -> None:
    first, second = pools(2).run(agreed_again)
    assert first == second
    assert first[3] == first[4] < first[5]


def stages_with_groups_of_their_own() -> tuple[float, list[str]]:
    """Two pipeline stages of two ranks each; stages schedule lr apart, but not the ranks of one."""
    stage = dist.get_rank() // 2
    params = {f"{stage}.{i}": nn.Parameter(tensor(f"{stage}{i}", 4)) for i in range(1 + stage)}
    optimizer = dd.Prodigy([{"params": [item], "weight_decay": 0.1 * stage} for item in params.items()], d0=1e-3)
    with Heard() as texts:
        for step in range(6):
            optimizer.param_groups[0]["lr"] = 1.0 - 0.1 * stage * step
            if step == 5 and dist.get_rank() == 3:
                optimizer.param_groups[1]["lr"] = 0.7
            for name, p in params.items():
                p.grad = tensor(name, 4, step=0)
            optimizer.step()
        d = optimizer.d
        optimizer.step()
    return d, texts


def test_only_ranks_with_the_same_parameters_need_the_same_groups(pools: Any) -> None:
    results = pools(4).run(stages_with_groups_of_their_own)
    assert len({d for d, _ in results}) == 1
    assert results[0][0] > 1e-3
    assert all([text.split(": ")[1].split(".")[0] for text in texts] == ["lr"] for _, texts in results)


def expert_beside_shards(*, named: bool) -> float:
    """A plain tensor of its own on each rank, under one name, beside an FSDP2-sharded one."""
    mesh = init_device_mesh("cpu", (2,))
    params: dict[str, nn.Parameter] = {
        "sharded": nn.Parameter(distribute_tensor(tensor("sharded", 5, 3), mesh, [Shard(0)], src_data_rank=None)),
        "expert": nn.Parameter(tensor(f"expert{dist.get_rank()}", 4)),
    }

    def gradient(name: str, step: int) -> Tensor:
        if name == "expert":
            return tensor(f"expert{dist.get_rank()}", 4, step=step)
        return distribute_tensor(tensor(name, 5, 3, step=step), mesh, [Shard(0)], src_data_rank=None)

    if named:
        params[f"expert{dist.get_rank()}"] = params.pop("expert")
        return train(params, lambda name, step: gradient("expert" if "expert" in name else name, step), named=True)
    return train(params, gradient)


def drifted_later() -> tuple[float, Tensor]:
    """Replicas that were equal at the start and have drifted by a rounding when a group is added."""
    p, q = nn.Parameter(tensor("p", 4)), nn.Parameter(tensor("q", 3))
    optimizer = dd.Prodigy([p], d0=1e-1)
    for step in range(4):
        if step == 2:
            with torch.no_grad():
                p.mul_(1 + dist.get_rank() * 1e-12)
            optimizer.add_param_group({"params": [q]})
        p.grad = tensor("p", 4, step=step)
        q.grad = tensor("q", 3, step=step) if step >= 2 else None
        optimizer.step()
    return float(optimizer.d), p.detach()


def test_replicas_that_drift_by_roundings_in_training_stay_replicas(pools: Any) -> None:
    """Ranks that compute a replicated layer's gradient each for itself do not agree to the last bit for ever."""
    (d, first), (other, second) = pools(2).run(drifted_later)
    assert d == other
    assert not torch.equal(first, second)


def experts_message() -> str:
    return message(expert_beside_shards, named=False)


def test_tensors_of_each_ranks_own_beside_shards_are_not_taken_for_replicas(pools: Any) -> None:
    """Values were compared only between ranks with the same pieces of everything, which shards never are."""
    for text in pools(2).run(experts_message):
        assert "their values differ" in text
    d, _ = expected({"sharded": (5, 3), "expert0": (4,), "expert1": (4,)})
    assert pools(2).run(expert_beside_shards, named=True) == [pytest.approx(d, rel=1e-12)] * 2


def uneven() -> str:
    """On 3 ranks: two share a 2-way sharded tensor with a third that should not have it."""
    rank = dist.get_rank()
    params = {f"own{rank}": nn.Parameter(tensor("own", 3)), "shared": nn.Parameter(tensor("shared", 4))}
    original = replicated.LocalShard
    replicated.LocalShard = lambda **o: original(
        **{**o, "num_shards": 2 if o["global_numel"] == 4 else 1, "shard_id": str(rank)}
    )  # type: ignore[misc]
    try:
        return message(train, params, lambda name, step: tensor(name, *params[name].shape, step=step), named=True)
    finally:
        replicated.LocalShard = original  # type: ignore[misc]


def test_copies_that_do_not_come_out_even_raise_on_all_ranks(pools: Any) -> None:
    for text in pools(3).run(uneven):
        assert "do not come out even" in text
        assert "3 ranks hold" in text


def frozen_garbage(attached: bool) -> str | float:
    """FSDP1 after gc.freeze(), which servers call to spare the collector the model."""
    job = fsdp1(orig=True)
    optimizer = dd.Prodigy(job.params(), d0=1e-3)
    gc.freeze()
    count = gc.get_freeze_count()
    if attached:
        dd.attach(job.model)
    try:
        job.backward(0)
        optimizer.step()
        assert gc.get_freeze_count() > count / 2
        return float(optimizer.d)
    except dd.PlacementError as error:
        return str(error)
    finally:
        gc.unfreeze()


def test_fsdp1_after_gc_freeze_is_recognised_when_it_is_attached(pools: Any) -> None:
    assert pools(2).run(frozen_garbage, True) == [pytest.approx(1e-3, rel=1e-2)] * 2


def test_fsdp1_after_gc_freeze_names_the_cure(pools: Any) -> None:
    for said in pools(2).run(frozen_garbage, False):
        assert "gc.freeze() hides objects: call dadapt_dist.attach(model) before the first step" in said


def unfrozen() -> list[list[str]]:
    """A layer is unfrozen later, and only rank 0 has a gradient for it at first (uneven rows: 1 row on 2 ranks)."""
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 1)).double()
    model[1].requires_grad_(False)
    fully_shard(model)
    optimizer = dd.Prodigy(model.parameters(), d0=1e-3)
    for step in range(3):
        if step == 1:
            model[1].requires_grad_(True)
        optimizer.zero_grad()
        model(torch.ones(2, 3, dtype=torch.float64)).square().mean().backward()
        optimizer.step()
    return [sorted(state) for state in optimizer.state_dict()["state"].values()]


def test_layers_unfrozen_later_get_their_buffers_on_all_ranks(pools: Any) -> None:
    first, second = pools(2).run(unfrozen)
    assert first == second
    assert first == [["exp_avg", "exp_avg_sq", "p0", "s"]] * 4


def test_parameters_that_a_framework_replaced_are_let_go() -> None:
    old = nn.Parameter(torch.ones(3))
    optimizer = dd.Prodigy([old])
    old.grad = torch.ones(3)
    optimizer.step()
    new = nn.Parameter(torch.ones(3))
    optimizer.param_groups[0]["params"] = [new]
    optimizer.state.clear()
    new.grad = torch.ones(3)
    optimizer.step()
    gone = weakref.ref(old)
    del old
    gc.collect()
    assert gone() is None


def test_state_that_somebody_touched_is_still_created() -> None:
    p = nn.Parameter(torch.ones(3))
    optimizer = dd.Prodigy([p])
    assert optimizer.state[p] == {}  # a defaultdict: reading makes an entry
    p.grad = torch.ones(3)
    optimizer.step()
    assert "s" in optimizer.state[p]


def test_an_optimizer_that_is_gone_is_not_waited_for() -> None:
    step_size = dd.StepSize()
    p, q = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(2))
    first, second = dd.Prodigy([p], step_size=step_size), dd.Prodigy([q], step_size=step_size)
    p.grad = torch.ones(3)
    first.step()
    del second
    gc.collect()
    first.step()
    assert step_size.steps == 2


def test_a_scaler_goes_on_after_a_refused_step() -> None:
    """torch multiplies a scale that an earlier step() left behind into the next one."""
    p = nn.Parameter(torch.ones(2, dtype=torch.float64))
    optimizer = dd.Prodigy([p], nonfinite="raise")
    scaler = torch.amp.GradScaler("cpu", init_scale=512.0)
    scaler.scale((p * torch.tensor([float("inf"), 1.0])).sum()).backward()
    with pytest.raises(dd.NonFiniteError):
        scaler.step(optimizer)
    assert not hasattr(optimizer, "grad_scale")
    assert not hasattr(optimizer, "found_inf")


def equal_at_first(*, sliced: bool) -> list[str]:
    """A norm weight of ones on each rank: halves of one tensor, or copies whose gradients differ by roundings."""
    p, q = nn.Parameter(torch.ones(6, dtype=torch.float64)), nn.Parameter(tensor("w", 5, 3))
    optimizer = dd.Prodigy([("norm", p), ("w", q)], d0=1e-3)
    with Heard() as texts:
        for step in range(4):
            gradient = tensor("norm", 12, step=step)
            p.grad = (
                gradient.chunk(2)[dist.get_rank()].clone() if sliced else gradient[:6] * (1 + 1e-3 * dist.get_rank())
            )
            q.grad = tensor("w", 5, 3, step=step)
            optimizer.step()
    return texts


def test_slices_that_start_equal_are_told_by_their_gradients(pools: Any) -> None:
    """They were taken for copies, and d was off by 0.14 %."""
    for texts in pools(2).run(equal_at_first, sliced=True):
        assert len(texts) == 1
        assert "pass copies=" in texts[0]
        assert "process_group=" in texts[0]
    assert pools(2).run(equal_at_first, sliced=False) == [[], []]


def fsdp1_in_backward() -> str:
    from torch.distributed.optim import _apply_optimizer_in_backward  # type: ignore[attr-defined]

    job = fsdp1(orig=True)
    _apply_optimizer_in_backward(dd.Prodigy, list(job.params()), {"d0": 1e-3})
    optimizer = next(iter(job.params()))._in_backward_optimizers[0]
    with pytest.raises(ValueError, match=r"inside the backward pass.*FSDP2") as raised:
        optimizer.step()  # as FSDP1 does, for the pieces that the rank holds
    return str(raised.value)


def test_fsdp1_with_optimizers_in_backward_is_refused(pools: Any) -> None:
    """Ranks without a piece never stepped, and the others waited for them."""
    assert len(pools(2).run(fsdp1_in_backward)) == 2
