"""Does a checkpoint written under one layout go on under another, and does torch's own machinery find what it expects?"""

import copy
import pickle
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    get_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
    set_state_dict,
)
from torch.distributed.fsdp import FullOptimStateDictConfig, FullStateDictConfig, StateDictType
from torch.distributed.fsdp import FullyShardedDataParallel as FSDP

import dadapt_dist as dd

from .layouts import CPU, LAYOUTS, Job, fsdp2, ranks
from .models import Tiny
from .runs import CLASSES
from .test_state_dict import same

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")

BEFORE, AFTER = 5, 6
D0 = 1e-3
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "prodigy": ("prodigy", {"weight_decay": 0.01, "use_bias_correction": True}),
    "prodigy sliced": ("prodigy", {"slice_p": 3}),
    "dadapt_adam": ("dadapt_adam", {"weight_decay": 0.01}),
    "dadapt_sgd": ("dadapt_sgd", {"momentum": 0.9, "weight_decay": 0.01}),
    "dadapt_adagrad": ("dadapt_adagrad", {"momentum": 0.5}),
    "dadapt_adan": ("dadapt_adan", {}),
    "dadapt_lion": ("dadapt_lion", {}),
}
MORE_LAYOUTS: dict[str, tuple[int, Callable[[], Job]]] = {"one process": (1, lambda: Job(Tiny()))}
Result = dict[str, Any]


class Training:
    """A model under a layout, its optimizer, and d after each of its steps."""

    def __init__(self, job: Job, case: str, **more: Any) -> None:
        key, options = CASES[case]
        self.job = job
        self.optimizer: Any = CLASSES[key](job.params(), **{"d0": D0, **options, **more})
        self.d: list[float] = []

    def steps(self, first: int, number: int, *, read: bool = True) -> "Training":
        """Train. read: look at d after each step, which waits for the reduce; else it stays under way."""
        for step in range(first, first + number):
            self.optimizer.zero_grad()
            self.job.backward(step)
            self.optimizer.step()
            if read:
                self.d.append(self.optimizer.d)
        return self

    def result(self) -> Result:
        return {"d": self.d, "params": self.job.full()}


def build(layout: str) -> Job:
    return {**LAYOUTS, **MORE_LAYOUTS}[layout][1]()


def packed(training: Training) -> Any:
    model, optimizer = get_state_dict(training.job.model, training.optimizer)
    return {"model": model, "optimizer": optimizer}


def save(layout: str, cases: list[str], folder: str) -> list[Result]:
    """Train, save each case while its reduce is under way, and go on uninterrupted."""
    results = []
    for case in cases:
        training = Training(build(layout), case).steps(0, BEFORE, read=False)
        dcp.save(packed(training), checkpoint_id=f"{folder}/{case}", no_dist=layout == "one process")
        results.append(training.steps(BEFORE, AFTER).result())
    return results


def resume(layout: str, cases: list[str], folder: str) -> list[Result]:
    """Load each case into a new model and optimizer, and train as the saved run went on."""
    results = []
    for case in cases:
        training = Training(build(layout), case)
        checkpoint = packed(training)
        dcp.load(checkpoint, checkpoint_id=f"{folder}/{case}", no_dist=layout == "one process")
        set_state_dict(
            training.job.model,
            training.optimizer,
            model_state_dict=checkpoint["model"],
            optim_state_dict=checkpoint["optimizer"],
        )
        results.append(training.steps(BEFORE, AFTER).result())
    return results


@pytest.fixture(scope="module")
def run_under(pools: Any) -> Callable[..., list[Any]]:
    """`run_under(fn, layout, ...)` calls `fn(layout, ...)` on all ranks of the layout and returns their results."""

    def run(fn: Callable[..., Any], layout: str, *args: Any) -> list[Any]:
        size = {**LAYOUTS, **MORE_LAYOUTS}[layout][0]
        return [fn(layout, *args)] if size == 1 else pools(size).run(fn, layout, *args)

    return run


@pytest.fixture(scope="module")
def saved(run_under: Any, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Path, dict[str, Result]]]:
    """`saved(layout)` is the folder of all cases' checkpoints under that layout and how each went on, written once."""
    made: dict[str, tuple[Path, dict[str, Result]]] = {}

    def get(layout: str) -> tuple[Path, dict[str, Result]]:
        if layout not in made:
            folder, cases = tmp_path_factory.mktemp("checkpoint"), fitting(layout)
            results = run_under(save, layout, cases, str(folder))[0]
            made[layout] = folder, dict(zip(cases, results, strict=True))
        return made[layout]

    return get


def fitting(*layouts: str) -> list[str]:
    """Cases that all these layouts can train: a sliced buffer needs whole rows."""
    cut = any("tp" in layout or "flat" in layout for layout in layouts)
    return [case for case in CASES if not (cut and "sliced" in case)]


WAYS = [
    ("fsdp2, 4 ranks", "fsdp2, 4 ranks"),
    ("fsdp2, 4 ranks", "fsdp2"),
    ("fsdp2, 4 ranks", "one process"),
    ("fsdp2, 4 ranks", "hsdp"),
    ("fsdp2, 4 ranks", "tp"),
    ("fsdp2, 4 ranks", "fsdp2 x tp"),
    ("fsdp2, 4 ranks", "ddp"),
    ("fsdp2, 4 ranks", "fsdp1 orig params"),
    ("fsdp2, 4 ranks", "fsdp1 flat"),
    ("fsdp1 orig params", "fsdp1 orig params"),
    ("fsdp1 orig params", "fsdp2"),
    ("fsdp1 orig params", "one process"),
    ("fsdp1 flat", "fsdp2"),
    ("ddp", "fsdp2"),
    ("one process", "fsdp2, 4 ranks"),
]


@pytest.mark.parametrize(("source", "target"), WAYS, ids=lambda layout: layout)
def test_a_checkpoint_goes_on_under_another_layout_as_if_nothing_had_happened(
    source: str, target: str, saved: Any, run_under: Any
) -> None:
    folder, expected = saved(source)
    cases = fitting(source, target)
    results = run_under(resume, target, cases, str(folder))

    for case, result in zip(cases, results[0], strict=True):
        want = expected[case]
        if source == target:
            assert same(result, want), case
        assert max(abs(d / old - 1) for d, old in zip(result["d"], want["d"], strict=True)) < 1e-10, case
        for name, old in want["params"].items():
            assert (result["params"][name] - old).norm() <= 1e-10 * old.norm(), (case, name)
        assert want["d"][-1] > 1.05 * want["d"][0] > D0, f"{case}: d never moved, the comparison would be empty"
    assert all(same(result, results[0]) for result in results), "ranks differ"


# -------------------------------------------------------------------- torch.distributed.checkpoint.state_dict

FORMS: dict[str, tuple[StateDictOptions, StateDictOptions]] = {
    "plain": (StateDictOptions(), StateDictOptions()),
    "flattened": (StateDictOptions(flatten_optimizer_state_dict=True),) * 2,
    "full": (StateDictOptions(full_state_dict=True),) * 2,
    "full, flattened": (StateDictOptions(full_state_dict=True, flatten_optimizer_state_dict=True),) * 2,
    "full, on the CPU": (StateDictOptions(full_state_dict=True, cpu_offload=True),) * 2,
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


@pytest.mark.parametrize("layout", ["fsdp2", "fsdp2 x tp"])
@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_an_optimizer_state_dict_carries_everything(form: str, layout: str, pools: Any) -> None:
    if form == "full, from rank 0" and layout == "fsdp2 x tp":
        pytest.skip("torch cannot broadcast to parameters on different meshes")
    for results in pools(LAYOUTS[layout][0]).run(through_all, form, layout):
        for case, (whole, other) in results.items():
            assert same(other, whole), case
            assert whole["d"][-1] > 1.05 * whole["d"][0], case


def dummy_step(case: str) -> dict[str, Any]:
    """State made by torch's dummy step, then weights of another seed, then training; and training from those weights."""
    training = Training(fsdp2(), case)
    before, options = training.job.full(), dict(training.optimizer.param_groups[0])
    state = get_optimizer_state_dict(training.job.model, training.optimizer)
    after, d = training.job.full(), training.optimizer.d
    group = {key: training.optimizer.param_groups[0][key] for key in ("k", "steps", "lr", "held")}
    expected = Training(Job(Tiny(seed=1)), case)
    with torch.no_grad():
        for p, (name, value) in zip(training.job.model.parameters(), expected.job.full().items(), strict=True):
            shard = torch.distributed.tensor.distribute_tensor(value, p.device_mesh, p.placements)
            p.copy_(shard)
            assert name
    return {
        "unmoved": same(before, after) and d == options["d"] == D0,
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
    expected = from_those_weights(case)
    for result in pools(2).run(dummy_step, case):
        assert result["unmoved"]
        assert result["group"] == {"k": 0, "steps": 0, "lr": 1.0, "held": 0}
        assert result["names"] >= {"s"}
        assert max(abs(d / old - 1) for d, old in zip(result["trained"]["d"], expected["d"], strict=True)) < 1e-10
        for name, old in expected["params"].items():
            assert (result["trained"]["params"][name] - old).norm() <= 1e-10 * old.norm(), name
    assert expected["d"][-1] > 1.5 * D0


def halves(step_size: dd.StepSize, job: Job) -> list[dd.Prodigy]:
    parts = list(job.model.named_parameters())
    return [dd.Prodigy(part, d0=D0, step_size=step_size) for part in (parts[:4], parts[4:])]


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
    dcp.save({"m": get_model_state_dict(whole.model), "o": get_optimizer_state_dict(whole.model, old)}, checkpoint_id=folder)
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
    set_state_dict(
        other.job.model, other.optimizer, model_state_dict=state["model"], optim_state_dict=state["optimizer"]
    )
    names = {name for buffers in other.optimizer.state.values() for name in buffers}
    whole.d.clear()
    return whole.steps(BEFORE, AFTER).result(), other.steps(BEFORE, AFTER).result(), names


def test_a_frozen_checkpoint_on_disk_goes_on_with_a_partial_load(pools: Any, tmp_path: Path) -> None:
    for whole, other, names in pools(2).run(frozen, str(tmp_path)):
        assert same(other, whole)
        assert names == {"exp_avg", "exp_avg_sq"}


# -------------------------------------------------------------------- FSDP1's own


def fsdp1_zero(*, orig: bool) -> Job:
    """A head of zeros, as adapters have, alone in a wrapper: on some ranks its piece is all there is."""
    model = Tiny()
    nn.init.zeros_(model.head.weight)
    options = dict(use_orig_params=orig, device_id=CPU)
    model.blocks[0] = FSDP(model.blocks[0], **options)
    model.head = FSDP(model.head, **options)
    return Job(FSDP(model, **options), *ranks())


def fsdp1_through(case: str, *, orig: bool, sharded: bool) -> tuple[Result, Result]:
    kind = StateDictType.SHARDED_STATE_DICT if sharded else StateDictType.FULL_STATE_DICT
    settings = () if sharded else (FullStateDictConfig(offload_to_cpu=False), FullOptimStateDictConfig(offload_to_cpu=False))
    whole, other = (Training(fsdp1_zero(orig=orig), case) for _ in range(2))
    whole.steps(0, BEFORE, read=False)
    with FSDP.state_dict_type(whole.job.model, kind, *settings):
        weights = whole.job.model.state_dict()
        state = FSDP.optim_state_dict(whole.job.model, whole.optimizer)
    with FSDP.state_dict_type(other.job.model, kind, *settings):
        other.job.model.load_state_dict(weights)
        other.optimizer.load_state_dict(FSDP.optim_state_dict_to_load(other.job.model, other.optimizer, state))
    return whole.steps(BEFORE, AFTER).result(), other.steps(BEFORE, AFTER).result()


@pytest.mark.parametrize("sharded", [False, True], ids=["full", "sharded"])
@pytest.mark.parametrize("orig", [False, True], ids=["flat", "orig params"])
@pytest.mark.parametrize("case", CASES)
def test_fsdp1_state_dicts_resume_bit_for_bit_with_zero_weights(case: str, orig: bool, sharded: bool, pools: Any) -> None:
    if not orig and "sliced" in case:
        pytest.skip("flat parameters cannot be sliced")
    for whole, other in pools(2).run(partial(fsdp1_through, case, orig=orig, sharded=sharded)):
        assert same(other, whole)
        assert whole["d"][-1] > 1.05 * whole["d"][0]


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


def copied_mid_flight(how: str) -> tuple[Result, Result]:
    """A copy made right after a step, on rank 0 earlier than on the others, and then trained beside the original."""
    job = Job(Tiny(), *ranks())
    job.after_backward = lambda: average_all(job.model)
    training = Training(job, "prodigy")
    training.steps(0, BEFORE, read=False)
    clone = copy.deepcopy if how == "deepcopy" else lambda item: pickle.loads(pickle.dumps(item))
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


def one_rank_refuses() -> tuple[str, list[Tensor], list[Tensor]]:
    """A whole checkpoint given to sharded parameters."""
    training = Training(fsdp2(), "prodigy")
    whole = Training(Job(Tiny()), "prodigy", process_group=dist.new_subgroups(1)[0]).steps(0, 2)
    state = whole.optimizer.state_dict()
    with pytest.raises(ValueError, match="set_optimizer_state_dict") as refused:
        training.optimizer.load_state_dict(state)
    return str(refused.value), [], []


def test_a_whole_checkpoint_is_not_taken_for_a_shard(pools: Any) -> None:
    for text, _, _ in pools(2).run(one_rank_refuses):
        assert "placed as whole" in text
