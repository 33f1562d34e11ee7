"""Check torch's checkpoint tools: forms of state dicts, dummy steps, partial loads, saves in the middle of a step."""

import contextlib
import copy
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.fsdp import FullyShardedDataParallel as FSDP
from torch.distributed.tensor import distribute_tensor

import dadapt_dist as dd
from dadapt_dist.methods import METHODS
from tests.helpers.checkpoints import AFTER, BEFORE, CASES, Result, Training, build, fitting, packed, unpack
from tests.helpers.classes import WITH_D
from tests.helpers.layouts import LAYOUTS, Job, fsdp2, ranks, shard2
from tests.helpers.models import Tiny
from tests.helpers.resumed import same

pytestmark = pytest.mark.filterwarnings(
    "ignore::FutureWarning", "ignore::DeprecationWarning", "ignore:torch.distributed is disabled"
)

FORMS: dict[str, tuple[StateDictOptions, StateDictOptions]] = {
    "plain": (StateDictOptions(), StateDictOptions()),
    "flattened": (StateDictOptions(flatten_optimizer_state_dict=True),) * 2,
    "full": (StateDictOptions(full_state_dict=True),) * 2,
    "full, from rank 0": (
        StateDictOptions(full_state_dict=True, cpu_offload=True),
        StateDictOptions(full_state_dict=True, broadcast_from_rank0=True),
    ),
}


def through(form: str, layout: str, case: str) -> tuple[Result, Result]:
    """The uninterrupted run, and one that takes its state from the other's state dict in this form."""
    give, take = FORMS[form]
    whole = Training(build(layout), case).steps(0, BEFORE, read=False)
    state = get_optimizer_state_dict(whole.job.model, whole.optimizer, options=give)
    weights = get_model_state_dict(whole.job.model)
    other = Training(build(layout), case)
    set_model_state_dict(other.job.model, weights)
    set_optimizer_state_dict(other.job.model, other.optimizer, state, options=take)
    return whole.steps(BEFORE, AFTER).result(), other.steps(BEFORE, AFTER).result()


def through_all(form: str, layout: str) -> dict[str, tuple[Result, Result]]:
    return {case: through(form, layout, case) for case in fitting(layout)}


# torch itself cannot give out full tensors again over meshes of two axes, unless rank 0 broadcasts them.
@pytest.mark.in_one_go
@pytest.mark.parametrize("layout", ["fsdp2", pytest.param("fsdp2 x tp", marks=pytest.mark.matrix)])
@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_an_optimizer_state_dict_carries_everything(form: str, layout: str, pools: Any) -> None:
    if form == "full" and layout == "fsdp2 x tp":
        pytest.skip("an AssertionError in torch, for AdamW too")
    for results in pools(LAYOUTS[layout][0]).run(through_all, form, layout):
        for case, (whole, other) in results.items():
            assert same(other, whole), case
            assert CASES[case][0] not in WITH_D or whole["d"][-1] > 1.05 * whole["d"][0], case


def of_a_newer_version(form: str) -> tuple[str, bool]:
    """What loading says to a state dict whose format is raised by one, and whether the optimizer is still as it was."""
    give, take = FORMS[form]
    training = Training(fsdp2(), "prodigy").steps(0, 2)
    state = get_optimizer_state_dict(training.job.model, training.optimizer, options=give)
    for group in state.get("param_groups", [state]):
        group.update({key: 2 for key in group if key.split(".")[-1] == "format"})
    other = Training(fsdp2(), "prodigy")
    with pytest.raises(ValueError, match="newer") as refused:
        set_optimizer_state_dict(other.job.model, other.optimizer, state, options=take)
    return str(refused.value), other.optimizer.d == CASES["prodigy"][1]["d0"]


@pytest.mark.parametrize("form", FORMS)
def test_the_format_number_travels_in_every_form_and_a_newer_one_is_refused(form: str, pools: Any) -> None:
    for message, unchanged in pools(2).run(of_a_newer_version, form):
        assert "has the format 2, made by a newer dadapt-dist" in message
        assert unchanged


def the_format_of_fsdp1() -> list[int]:
    training = Training(build("fsdp1 orig params"), "dadapt_adam").steps(0, 1)
    state = FSDP.optim_state_dict(training.job.model, training.optimizer)
    back = FSDP.optim_state_dict_to_load(training.job.model, training.optimizer, state)
    return [group["format"] for group in (*state["param_groups"], *back["param_groups"])]


def test_the_format_number_travels_through_fsdp1(pools: Any) -> None:
    assert pools(2).run(the_format_of_fsdp1) == [[1, 1]] * 2


def stage_of_a_pipeline(flat: bool) -> str:
    """Each rank has other parameters, as pipeline stages have; what loading the state of stage 1 says."""
    model = nn.ModuleDict({f"stage{dist.get_rank()}": nn.Linear(3, 2)})
    optimizer = dd.Prodigy(model.parameters())
    box: list[Any] = [get_optimizer_state_dict(model, optimizer)]
    if flat:
        options = FORMS["flattened"][0]
        set_optimizer_state_dict(
            model, optimizer, get_optimizer_state_dict(model, optimizer, options=options), options=options
        )
        return "loaded"
    dist.broadcast_object_list(groups := [box[0]["param_groups"]], 1)
    with pytest.raises(ValueError, match="pipeline") if dist.get_rank() == 0 else contextlib.nullcontext() as refused:
        set_optimizer_state_dict(model, optimizer, {**box[0], "param_groups": groups[0]})
    return str(refused.value) if refused else "loaded"


def test_groups_of_another_pipeline_stage_are_refused_with_the_option_that_keeps_them_apart(pools: Any) -> None:
    """torch.distributed.checkpoint keeps one list of groups under one name, whichever stage wrote it."""
    refused, loaded = pools(2).run(stage_of_a_pipeline, False)
    assert "flatten_optimizer_state_dict=True" in refused
    assert loaded == "loaded"
    assert pools(2).run(stage_of_a_pipeline, True) == ["loaded", "loaded"]


def dummy_step(case: str) -> dict[str, Any]:
    """State made by torch's dummy step, then weights of another seed, then training."""
    training = Training(fsdp2(), case)
    before, options = training.job.full(), training.optimizer.state_dict()["param_groups"][0]
    state = get_optimizer_state_dict(training.job.model, training.optimizer)
    after, scalars = training.job.full(), training.optimizer.state_dict()["param_groups"][0]
    group = {key: float(training.optimizer.param_groups[0][key]) for key in ("k", "steps", "lr", "held")}
    with torch.no_grad():
        for p, value in zip(training.job.model.parameters(), Tiny(seed=1).parameters(), strict=True):
            p.copy_(distribute_tensor(value, p.device_mesh, p.placements))
    return {
        "unmoved": same(before, after) and same(scalars, options),
        "group": group,
        "names": set(state["state"]["head.weight"]),
        "trained": training.steps(0, 8).result(),
    }


def from_those_weights(case: str) -> Result:
    """One process, without a dummy step."""
    return Training(Job(Tiny(seed=1)), case).steps(0, 8).result()


@pytest.mark.parametrize("case", CASES)
def test_a_dummy_step_moves_nothing_and_weights_loaded_after_it_are_the_new_start(case: str, pools: Any) -> None:
    """Checkpoint tools step with lr 0 and zero gradients before weights arrive; an x0 of before would hold d at d0."""
    expected, method = from_those_weights(case), CASES[case][0]
    for result in pools(2).run(dummy_step, case):
        assert result["unmoved"]
        lr = METHODS[method].options.defaults()["lr"]
        assert result["group"] == {"k": 0, "steps": 0, "lr": lr, "held": 0}
        assert result["names"] >= set(METHODS[method]().buffers(METHODS[method].options.defaults()))
        assert result["trained"]["d"] == pytest.approx(expected["d"], rel=1e-10, abs=0, nan_ok=method not in WITH_D)
        for name, old in expected["params"].items():
            assert (result["trained"]["params"][name] - old).norm() <= 1e-10 * old.norm(), name
    assert method not in WITH_D or expected["d"][-1] > 1.5 * CASES[case][1].get("d0", expected["d"][0])


def low_precision(folder: str) -> tuple[Result, Result, set[torch.dtype]]:
    """bfloat16 parameters with float32 buffers, through a file."""
    jobs = [Job(shard2(Tiny(dtype=torch.bfloat16)), *ranks(), dtype=torch.bfloat16) for _ in range(2)]
    whole, other = (Training(job, "prodigy", d0=1e-2) for job in jobs)
    dcp.save(packed(whole.steps(0, BEFORE, read=False)), checkpoint_id=folder)
    state = packed(other)
    dcp.load(state, checkpoint_id=folder)
    unpack(other, state)
    dtypes = {t.dtype for buffers in other.optimizer.state.values() for t in buffers.values()}
    return whole.steps(BEFORE, AFTER).result(), other.steps(BEFORE, AFTER).result(), dtypes


def test_buffers_of_bfloat16_parameters_keep_float32_on_disk(pools: Any, tmp_path: Path) -> None:
    for whole, other, dtypes in pools(2).run(low_precision, str(tmp_path)):
        assert dtypes == {torch.float32}
        assert same(other, whole)
        assert whole["d"][-1] > 1.05 * whole["d"][0]


def halves(step_size: dd.StepSize, job: Job) -> list[dd.Prodigy]:
    parts = list(job.model.named_parameters())
    return [dd.Prodigy(part, d0=1e-5, step_size=step_size) for part in (parts[:4], parts[4:])]


def train_halves(job: Job, optimizers: list[dd.Prodigy], first: int, number: int) -> Result:
    ds = []
    for step in range(first, first + number):
        job.model.zero_grad()
        job.backward(step)
        for optimizer in optimizers:
            optimizer.step()
        ds.append(optimizers[1].d)
    return {"d": ds, "params": job.full()}


def two_optimizers(folder: str) -> tuple[Result, Result]:
    """Two optimizers with one step size, saved and loaded together as a list."""
    whole = fsdp2()
    old = halves(dd.StepSize(), whole)
    train_halves(whole, old, 0, BEFORE)
    state = {"m": get_model_state_dict(whole.model), "o": get_optimizer_state_dict(whole.model, old)}
    dcp.save(state, checkpoint_id=folder)
    job = fsdp2()
    new = halves(dd.StepSize(), job)
    state = {"m": get_model_state_dict(job.model), "o": get_optimizer_state_dict(job.model, new)}
    dcp.load(state, checkpoint_id=folder)
    set_model_state_dict(job.model, state["m"])
    set_optimizer_state_dict(job.model, new, state["o"])
    return train_halves(whole, old, BEFORE, AFTER), train_halves(job, new, BEFORE, AFTER)


def test_two_optimizers_with_one_step_size_are_saved_and_loaded_as_a_list(pools: Any, tmp_path: Path) -> None:
    for whole, resumed in pools(2).run(two_optimizers, str(tmp_path)):
        assert same(resumed, whole)
        assert whole["d"][-1] > 1.05 * whole["d"][0]


def frozen(folder: str) -> tuple[Result, Result, set[str]]:
    """A run with d frozen at step 3, saved at step 5 and resumed."""
    whole = Training(fsdp2(), "prodigy", freeze_after=3).steps(0, BEFORE)
    dcp.save(packed(whole), checkpoint_id=folder)
    other = Training(fsdp2(), "prodigy", freeze_after=3)
    state = packed(other)  # of step 0: it has the statistics that the checkpoint lacks
    dcp.load(state, checkpoint_id=folder, planner=dcp.DefaultLoadPlanner(allow_partial_load=True))
    unpack(other, state)
    names = {name for buffers in other.optimizer.state.values() for name in buffers}
    whole.d.clear()
    return whole.steps(BEFORE, AFTER).result(), other.steps(BEFORE, AFTER).result(), names


def test_a_frozen_checkpoint_on_disk_goes_on_with_a_partial_load(pools: Any, tmp_path: Path) -> None:
    for whole, other, names in pools(2).run(frozen, str(tmp_path)):
        assert same(other, whole)
        assert names == {"exp_avg", "exp_avg_sq"}


# -------------------------------------------------------------------- while the reduce is under way


def saved_by_rank_0(layout: str, sync: str, save: bool) -> tuple[list[float], Result]:
    """Rank 0 alone saves after every step, at once; the others go on."""
    training, seen = Training(build(layout), "prodigy", sync=sync), []
    for step in range(BEFORE + AFTER):
        training.steps(step, 1, read=False)
        if save and dist.get_rank() == 0:
            seen.append(training.optimizer.state_dict()["param_groups"][0]["d"])
        elif not save:
            seen.append(training.optimizer.d)
    return seen, training.result()


@pytest.mark.parametrize("sync", ["next_step", "step"])
@pytest.mark.parametrize("layout", ["ddp", "fsdp2", "fsdp2, 4 ranks"])
def test_rank_0_alone_may_save_at_any_moment_and_sees_the_right_d(layout: str, sync: str, pools: Any) -> None:
    pool = pools(LAYOUTS[layout][0])
    undisturbed = pool.run(saved_by_rank_0, layout, sync, False)
    disturbed = pool.run(saved_by_rank_0, layout, sync, True)

    assert disturbed[0][0] == undisturbed[0][0]
    assert [seen for seen, _ in disturbed[1:]] == [[]] * (len(disturbed) - 1)
    assert same([result for _, result in disturbed], [result for _, result in undisturbed])


def by_pickle(item: Any) -> Any:
    return pickle.loads(pickle.dumps(item))


def copied_mid_flight(how: str) -> tuple[Result, Result]:
    """A copy made right after a step, and then trained beside the original."""
    job = Job(Tiny(), *ranks())
    job.after_backward = lambda: average_all(job.model)
    training = Training(job, "prodigy")
    training.steps(0, BEFORE, read=False)
    clone: Callable[[Any], Any] = copy.deepcopy if how == "deepcopy" else by_pickle
    model, optimizer = clone((job.model, training.optimizer))
    other = Training(Job(model, *ranks()), "prodigy")
    other.job.after_backward = lambda: average_all(model)
    other.optimizer = optimizer
    return training.steps(BEFORE, AFTER).result(), other.steps(BEFORE, AFTER).result()


def average_all(model: nn.Module) -> None:
    for p in model.parameters():
        dist.all_reduce(p.grad)
        p.grad.div_(dist.get_world_size())


@pytest.mark.parametrize("size", [2, 4])
@pytest.mark.parametrize("how", ["deepcopy", "pickle"])
def test_a_copy_made_while_the_reduce_is_under_way_goes_on_like_the_original(how: str, size: int, pools: Any) -> None:
    for original, clone in pools(size).run(copied_mid_flight, how):
        assert same(clone, original)
        assert original["d"][-1] > 1.05 * original["d"][0]


def whole_state_for_shards() -> str:
    training = Training(fsdp2(), "prodigy")
    checkpoint = Training(fsdp2(), "prodigy").steps(0, 2).optimizer.state_dict()
    for buffers in checkpoint["state"].values():
        buffers.update({name: t.full_tensor() for name, t in buffers.items()})
    with pytest.raises(ValueError, match="set_optimizer_state_dict") as refused:
        training.optimizer.load_state_dict(checkpoint)
    return str(refused.value)


def test_a_whole_checkpoint_is_not_taken_for_a_shard(pools: Any) -> None:
    for text in pools(2).run(whole_state_for_shards):
        assert "placed as whole" in text
