"""Check that no failure of the released packages under sharded training remains here.

Each test tells one failure of prodigyopt 1.1.2 or dadaptation 3.2, shows ours against the float64 oracle of one process
and, where that costs little and cannot hang, shows the released package failing.
"""

import contextlib
import io
from collections.abc import Iterator
from typing import Any
from unittest import mock

import dadaptation
import prodigyopt
import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict
from torch.distributed.fsdp import FullyShardedDataParallel, StateDictType, fully_shard
from torch.distributed.fsdp.api import FullOptimStateDictConfig, FullStateDictConfig
from torch.distributed.tensor.debug import CommDebugMode
from torch.optim.lr_scheduler import LambdaLR

import dadapt_dist as dd
from tests.helpers.collectives import reduces
from tests.helpers.host_reads import CountReads
from tests.helpers.layouts import LAYOUTS, Job, fsdp2, ranks
from tests.helpers.models import Tiny, gradients
from tests.helpers.oracles import ORACLES

CLASSES = {"prodigy": dd.Prodigy, "dadapt_adam": dd.DAdaptAdam, "dadapt_sgd": dd.DAdaptSGD}
RELEASED = {
    "prodigy": prodigyopt.Prodigy,
    "dadapt_adam": dadaptation.DAdaptAdam,
    "dadapt_sgd": dadaptation.DAdaptSGD,
}
STEPS, D0 = 8, 1e-3


@contextlib.contextmanager
def released_on_cpu() -> Iterator[None]:
    """The released packages print, and call .cuda() on the two numbers that they reduce."""
    with contextlib.redirect_stdout(io.StringIO()), mock.patch.object(Tensor, "cuda", lambda t: t):
        yield


def follow(job: Job, optimizer: torch.optim.Optimizer) -> list[float]:
    """d after each step."""
    ds = []
    for step in range(STEPS):
        optimizer.zero_grad()
        job.backward(step)
        optimizer.step()
        # A group of ours shows d as of the last reduce that was waited for; the released classes have no attribute d.
        ds.append(float(getattr(optimizer, "d", optimizer.param_groups[0]["d"])))
    return ds


def ours(layout: str, method: str, **options: Any) -> list[float]:
    """On every rank."""
    job = LAYOUTS[layout][1]()
    return follow(job, CLASSES[method](job.params(), d0=D0, **options))


def theirs(layout: str, method: str, **options: Any) -> list[float] | str:
    """On every rank: the released d after each step, or what was raised."""
    job = LAYOUTS[layout][1]()
    with released_on_cpu():
        try:
            return follow(job, RELEASED[method](job.model.parameters(), d0=D0, **options))
        except RuntimeError as error:
            return str(error)


def oracle_ds(method: str, model: nn.Module | None = None, **options: Any) -> list[float]:
    """d of one process after each step."""
    model = model or Tiny()
    oracle, ds = ORACLES[method](list(model.parameters()), d0=D0, **options), []
    for step in range(STEPS):
        oracle.step(gradients(model, oracle.params, step))
        ds.append(oracle.d)
    assert ds[-1] > 1.5 * D0, "d never moved: the comparison would be empty"
    return ds


def even_fsdp2() -> Job:
    """Every tensor has an even number of rows."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 4), nn.Linear(4, 3, bias=False)).double()
    model[3].requires_grad_(False)
    fully_shard(model, ignored_params=set(model[3].parameters()))
    return Job(model, *ranks())


def even_run(kind: str, method: str) -> list[float]:
    """On every rank: `kind` is "ours" or "theirs"."""
    job = even_fsdp2()
    params = [p for p in job.model.parameters() if p.requires_grad]
    with released_on_cpu():
        return follow(job, (CLASSES if kind == "ours" else RELEASED)[method](params, d0=D0))


@pytest.mark.parametrize("method", ["prodigy", "dadapt_adam"])
def test_fsdp2_with_even_rows_has_one_d_and_it_is_that_of_one_process(method: str, pools: Any) -> None:
    """The released packages look for FSDP1's mark on a parameter and find none under FSDP2.

    With default flags each rank then makes its d from the elements it happens to hold: no error, no warning, and two
    ranks train one model with two step sizes.
    """
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 4), nn.Linear(4, 3, bias=False)).double()
    model[3].requires_grad_(False)
    expected = oracle_ds(method, model)
    for ds in pools(2).run(even_run, "ours", method):
        assert ds == pytest.approx(expected, rel=1e-10)
    released = pools(2).run(even_run, "theirs", method)
    assert released[0][-1] != pytest.approx(released[1][-1], rel=1e-3), "two ranks, two step sizes"


def test_fsdp2_with_uneven_rows_trains(pools: Any) -> None:
    """Released Prodigy flattens DTensors, which torch refuses where rows do not divide by the ranks.

    Ten rows on four ranks or three rows on two are enough: `Cannot flatten unevenly sharded tensor` in the first step.
    """
    for ds in pools(2).run(ours, "fsdp2", "prodigy"):
        assert ds == pytest.approx(oracle_ds("prodigy"), rel=1e-10)
    for error in pools(2).run(theirs, "fsdp2", "prodigy"):
        assert "unevenly sharded" in error


@pytest.mark.parametrize("method", ["prodigy", "dadapt_adam"])
def test_tensor_parallel_counts_every_element_once(method: str, pools: Any) -> None:
    """With the flag on, the released packages add up what all ranks hold, and some tensors are on all of them.

    Under tensor parallelism norms and biases are replicated and their share of the sums counts once a rank: all ranks
    have the same wrong d, without an error.
    """
    expected = oracle_ds(method)
    for ds in pools(2).run(ours, "tp", method):
        assert ds == pytest.approx(expected, rel=1e-10)
    for ds in pools(2).run(theirs, "tp", method, fsdp_in_use=True):
        assert ds[-1] != pytest.approx(expected[-1], rel=0.03)


@pytest.mark.parametrize("layout", ["fsdp1 flat", "fsdp1 orig params"])
def test_sgd_under_fsdp1_has_the_d_of_one_process(layout: str, pools: Any) -> None:
    """Released D-Adapt SGD looks for FSDP1 only in its first step, and forgets the answer in the second.

    From then on every rank has a d of its own, up to ten times off, silently.
    """
    expected = oracle_ds("dadapt_sgd")
    for ds in pools(2).run(ours, layout, "dadapt_sgd"):
        assert ds == pytest.approx(expected, rel=1e-10)
    released = pools(2).run(theirs, layout, "dadapt_sgd")
    assert released[0][-1] != pytest.approx(released[1][-1], rel=1e-3), "two ranks, two step sizes"


@pytest.mark.parametrize("method", ["prodigy", "dadapt_adam"])
@pytest.mark.parametrize("layout", ["fsdp1 flat", "fsdp1 orig params"])
def test_fsdp1_has_the_d_of_one_process_on_a_cpu_and_without_a_flag(layout: str, method: str, pools: Any) -> None:
    """Where the released packages do notice FSDP1 they move their two numbers to a GPU, with or without one.

    A plain `.cuda()` stands in the reduce: on a machine without CUDA the first step raises.
    """
    for ds in pools(2).run(ours, layout, method):
        assert ds == pytest.approx(oracle_ds(method), rel=1e-10)
    if not torch.cuda.is_available():
        w = nn.Parameter(torch.ones(3))
        with contextlib.redirect_stdout(io.StringIO()):
            released = RELEASED[method]([w], fsdp_in_use=True)
        w.grad = torch.ones(3)
        with pytest.raises((AssertionError, RuntimeError), match=r"CUDA|NVIDIA"):
            released.step()


def half_frozen() -> tuple[list[float], list[int], bool]:
    """On every rank: FSDP1 cuts two equal matrices, the second of which is frozen, so that rank 1 has no gradient."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 6, bias=False), nn.Linear(6, 6, bias=False)).double()
    model[1].requires_grad_(False)
    sharded = FullyShardedDataParallel(model, use_orig_params=True, device_id=torch.device("cpu"))
    optimizer, ds, counts, gradients_seen = dd.Prodigy(sharded.parameters(), d0=D0), [], [], False
    for step in range(STEPS):
        generator = torch.Generator().manual_seed(step)
        x = torch.randn(8, 6, generator=generator, dtype=torch.float64).chunk(2)[dist.get_rank()]
        optimizer.zero_grad()
        (sharded(x) - x).square().mean().backward()
        gradients_seen |= any(p.grad is not None and p.grad.numel() > 0 for p in sharded.parameters())
        with CommDebugMode() as communication:
            optimizer.step()
        counts.append(reduces(communication.get_comm_counts()))
        ds.append(float(optimizer.d))
    return ds, counts, gradients_seen


def test_a_rank_without_gradients_under_fsdp1_takes_part(pools: Any) -> None:
    """FSDP1 with original parameters leaves a rank without any gradient where its whole shard is frozen or unused.

    Released Prodigy detects sharding after a `continue`, D-Adapt Adam returns before its reduce: that rank stays away
    and the others wait for it until the time limit. (Not shown here: it hangs.)
    """
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 6, bias=False), nn.Linear(6, 6, bias=False)).double()
    oracle, expected = ORACLES["prodigy"]([model[0].weight], d0=D0), []
    for step in range(STEPS):
        x = torch.randn(8, 6, generator=torch.Generator().manual_seed(step), dtype=torch.float64)
        model[0].weight.data.copy_(oracle.params[0])
        model.zero_grad()
        (model(x) - x).square().mean().backward()
        oracle.step([model[0].weight.grad])
        expected.append(oracle.d)
    results = pools(2).run(half_frozen)
    assert [seen for _, _, seen in results] == [True, False]
    for ds, counts, _ in results:
        assert ds == pytest.approx(expected, rel=1e-10)
        assert counts[1:] == [1] * (STEPS - 1)
    assert expected[-1] > 1.5 * D0


@pytest.mark.parametrize("method", CLASSES)
def test_a_first_step_with_lr_zero_changes_nothing(method: str) -> None:
    """A warm-up that begins at lr 0, as many schedules do.

    Released Prodigy then reads a number that was never set (UnboundLocalError, with the flag on), and D-Adapt SGD
    divides by the norm of a gradient that it skipped (ZeroDivisionError).
    """
    start = torch.full((3,), 0.5, dtype=torch.float64)
    ds = []
    for warm in (1, 0):
        w = nn.Parameter(start.clone())
        optimizer = CLASSES[method]([w], d0=1e-2)
        scheduler = LambdaLR(optimizer, lambda k, warm=warm: float(k >= warm))
        for step in range(8 + warm):
            w.grad = w.detach() - 3
            optimizer.step()
            assert step >= warm or torch.equal(w.detach(), start)
            scheduler.step()
        ds.append(optimizer.d)
    assert ds[0] == ds[1] > 1e-2
    if method != "dadapt_adam":
        p = nn.Parameter(start.clone())
        with contextlib.redirect_stdout(io.StringIO()):
            released = RELEASED[method]([p], lr=1.0, fsdp_in_use=method == "prodigy")
        released.param_groups[0]["lr"] = 0.0
        p.grad = torch.ones_like(p)
        with pytest.raises((UnboundLocalError, ZeroDivisionError)):
            released.step()


def after_a_checkpoint_tool() -> tuple[list[float], bool]:
    """On every rank: let torch.distributed.checkpoint make the state by a dummy step, load the weights, train."""
    job = fsdp2()
    trained = {name: p.detach().clone() for name, p in job.model.named_parameters()}
    with torch.no_grad():
        for p in job.model.parameters():
            p.mul_(3.0)  # what the model is before its weights are loaded
    optimizer = dd.Prodigy(job.params(), d0=D0)
    saved = get_optimizer_state_dict(job.model, optimizer)
    untouched = optimizer.d == D0 and optimizer.step_size.steps == 0 and bool(saved["state"])
    with torch.no_grad():
        for name, p in job.model.named_parameters():
            p.copy_(trained[name])
    return follow(job, optimizer), untouched


def test_the_dummy_step_of_checkpoint_tools_is_no_step(pools: Any) -> None:
    """torch.distributed.checkpoint makes an optimizer's state by a step with lr 0 and zero gradients.

    Released Prodigy raises UnboundLocalError with the flag on; without it, it keeps as x0 the weights of before the
    checkpoint was loaded, and d stays at d0 for ever.
    """
    for ds, untouched in pools(2).run(after_a_checkpoint_tool):
        assert untouched
        assert ds == pytest.approx(oracle_ds("prodigy"), rel=1e-10)


def zero_initialised() -> tuple[bool, bool]:
    """On every rank: FSDP1 saves and loads the state of a model one of whose matrices is zero, as LoRA's B is."""
    job = fsdp1_with_zero_head()
    optimizer = dd.Prodigy(job.params(), d0=D0)
    follow(job, optimizer)
    before = buffers_of(optimizer)
    with FullyShardedDataParallel.state_dict_type(
        job.model, StateDictType.FULL_STATE_DICT, FullStateDictConfig(), FullOptimStateDictConfig(offload_to_cpu=False)
    ):
        saved = FullyShardedDataParallel.optim_state_dict(job.model, optimizer)
        shape = saved["state"]["head.weight"]["p0"].shape if saved["state"] else (3, 8)
        loaded = FullyShardedDataParallel.optim_state_dict_to_load(job.model, optimizer, saved)
    optimizer.load_state_dict(loaded)
    after = buffers_of(optimizer)
    return tuple(shape) == (3, 8), all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def buffers_of(optimizer: dd.Prodigy) -> list[Tensor]:
    """All buffers that hold something on this rank; torch loads none for a tensor whose elements are all elsewhere."""
    params = optimizer.param_groups[0]["params"]
    states = [optimizer.state[p] for p in params if p in optimizer.state]
    return [t.clone() for state in states for _, t in sorted(state.items()) if t.numel()]


def fsdp1_with_zero_head() -> Job:
    model = Tiny()
    nn.init.zeros_(model.head.weight)
    options = dict(use_orig_params=True, device_id=torch.device("cpu"))
    return Job(FullyShardedDataParallel(model, **options), *ranks())


def test_a_zero_initialised_parameter_is_saved_under_fsdp1(pools: Any) -> None:
    """Released Prodigy keeps the x0 of a parameter that is all zeros as one 0-dim number, to save memory.

    Under FSDP1 that depends on the rank's shard, and `optim_state_dict` fails on state that is no slice of the
    parameter: LoRA's B matrices are enough.
    """
    for right_shape, same in pools(2).run(zero_initialised):
        assert right_shape
        assert same
    w = nn.Parameter(torch.zeros(3, 8))
    released = prodigyopt.Prodigy([w])
    w.grad = torch.ones(3, 8)
    released.step()
    assert released.state[w]["p0"].shape == ()


def sliced(layout: str) -> tuple[list[float], list[int]]:
    """On every rank: d and the number of collectives in each step, with slice_p=11."""
    job = LAYOUTS[layout][1]()
    optimizer, ds, counts = dd.Prodigy(job.params(), d0=D0, slice_p=11), [], []
    for step in range(STEPS):
        optimizer.zero_grad()
        job.backward(step)
        with CommDebugMode() as communication:
            optimizer.step()
        counts.append(communication.get_total_counts())
        ds.append(float(optimizer.d))
    return ds, counts


@pytest.mark.parametrize("layout", ["fsdp2", "fsdp1 orig params"])
def test_slices_do_not_depend_on_the_sharding_and_cost_no_communication(layout: str, pools: Any) -> None:
    """Released slice_p takes every p-th element of whatever a rank holds.

    Under FSDP1 another number of ranks means other elements and another d; under FSDP2 slicing a flattened DTensor
    gathers it: 32 collectives a step where one is needed.
    """
    expected = oracle_ds("prodigy", slice_p=11)
    for ds, counts in pools(2).run(sliced, layout):
        assert ds == pytest.approx(expected, rel=1e-10)
        assert counts[1:] == [1] * (STEPS - 1)


@pytest.mark.parametrize("method", ["prodigy", "dadapt_adam"])
def test_replicated_and_sharded_parameters_in_one_model_count_once_each(method: str, pools: Any) -> None:
    """FSDP2 with ignored parameters: some tensors are whole on every rank, others are cut.

    A plain SUM over the ranks, the released flag's, counts the whole ones once a rank, and d is wrong on all of them.
    """
    expected = oracle_ds(method)
    for ds in pools(2).run(ours, "fsdp2 ignored params", method):
        assert ds == pytest.approx(expected, rel=1e-10)
    if method == "dadapt_adam":  # released Prodigy raises, as in the test of uneven rows
        for ds in pools(2).run(theirs, "fsdp2 ignored params", method, fsdp_in_use=True):
            assert ds[-1] != pytest.approx(expected[-1], rel=0.03)


@pytest.mark.parametrize("method", CLASSES)
def test_a_step_reads_nothing_of_a_parameter_on_the_host(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The released packages call .item() twice for every tensor in every step: 80 waits for the GPU with 40 tensors.

    Here the host reads at most the flags that a step was held, from copies that lie on the host already. On the CPU,
    where reading makes nobody wait, the step does read: here the plain loop is told that it runs on another device.
    """
    monkeypatch.setattr("dadapt_dist.kernels.eager.readable", lambda device: False)
    reads = {}
    for kind, classes in (("ours", CLASSES), ("theirs", RELEASED)):
        weights = [nn.Parameter(torch.ones(3)) for _ in range(40)]
        with contextlib.redirect_stdout(io.StringIO()):
            optimizer = classes[method](weights, **({"backend": "eager"} if kind == "ours" else {}))
        for _ in range(3):
            for w in weights:
                w.grad = torch.ones(3)
            with CountReads() as counter:
                optimizer.step()
        reads[kind] = counter.count
    assert reads["theirs"] >= 80
    assert reads["ours"] <= 2
