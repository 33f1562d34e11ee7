"""Check that a run saved and loaded by DeepSpeed continues as if uninterrupted, and that unfit checkpoints are refused."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import prodigyopt
import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from tests.helpers.classes import ALL, IN_ONE_GO, SETTINGS, WITH_D
from tests.helpers.deepspeed_runs import DECAYS, NAMES, OPTIONS, Case, Odd, Trainer, indices, quiet_deepspeed, same_bits
from tests.helpers.pool import WorkerPool

BEFORE, AFTER = 6, 3
WARMUP = {
    "scheduler": {
        "type": "WarmupDecayLR",
        "params": {"total_num_steps": 12, "warmup_num_steps": 2, "warmup_max_lr": 1.0},
    }
}
AUTO = {**SETTINGS["prodigy auto"], "weight_decay": 0.0, "use_bias_correction": False, "rms_cap": 0.01}
PLAIN = [Case(stage=stage, method=method, groups=3, sub_group=40) for stage in (2, 3) for method in IN_ONE_GO]
LAYOUTS = [
    Case(stage=0, groups=3),
    Case(stage=0, method="dadapt_sgd", precision="bf16"),
    Case(stage=1, groups=3, config=WARMUP),
    Case(stage=1, groups=3, precision="bf16+fp32"),
    Case(stage=2, groups=3, precision="bf16", offload="optimizer", method="dadapt_adan"),
    Case(stage=2, precision="fp16", config=WARMUP),
    Case(stage=3, groups=3, sub_group=40, precision="bf16", config=WARMUP),
    Case(stage=3, groups=3, sub_group=40, offload="parameters", accumulation=2, clip=0.5),
    Case(stage=1, groups=3, entry="json", options={"statistics_dtype": "bfloat16"}),
    Case(stage=3, groups=3, sub_group=40, options={"statistics_dtype": "bfloat16"}),
    Case(stage=1, groups=3, options=AUTO),
    Case(stage=2, precision="bf16", options={**AUTO, "total_steps": 40}, entry="json"),
    Case(stage=3, groups=3, sub_group=40, options={**AUTO, "total_steps": 40}),
]


def seen(trainer: Trainer) -> dict[str, Any]:
    """Everything of the optimizer that must survive, as it is now."""
    groups = [{k: v for k, v in dict(group).items() if k != "params"} for group in trainer.base._all_groups]
    return {"groups": groups, "steps": trainer.base.step_size.steps, "lr": trainer.engine.get_lr()}


def go_on(trainer: Trainer, first: int, number: int) -> dict[str, Any]:
    """Train, and return what must be equal bit for bit."""
    ds = []
    for step in range(first, first + number):
        trainer.step(step)
        ds.append(trainer.base.d)
    return {"d": ds, "weights": trainer.weights(), "masters": trainer.masters(), **seen(trainer)}


def stopped_and_uninterrupted(case: Case, folder: str) -> dict[str, Any]:
    """On every rank: save while the reduce of a step is under way, go on, and do the same again in engines that load it."""
    done: dict[str, Any] = {}
    with Trainer(case) as trainer:
        trainer.step(0)
        done["first d"] = trainer.base.d
        for step in range(1, BEFORE):
            trainer.step(step)
        trainer.engine.save_checkpoint(folder)  # nothing has waited for the reduce of the last step
        done["saved"] = seen(trainer)
        done["whole"] = go_on(trainer, BEFORE, AFTER)
    with Trainer(case) as trainer:
        trainer.engine.load_checkpoint(folder)
        done["loaded"] = seen(trainer)
        done["resumed"] = done["again"] = go_on(trainer, BEFORE, AFTER)
        if case.stage < 3:  # DeepSpeed asks for a new engine at stage 3
            trainer.engine.load_checkpoint(folder)
            trainer.engine.load_checkpoint(folder)
            done["again"] = go_on(trainer, BEFORE, AFTER)
    return done


def all_of(cases: Sequence[Case], folder: str) -> list[dict[str, Any]]:
    return [stopped_and_uninterrupted(case, f"{folder}/{index}") for index, case in enumerate(cases)]


@pytest.mark.timeout(240)
@pytest.mark.in_one_go
@pytest.mark.parametrize("cases", [PLAIN, LAYOUTS], ids=["every method", "every layout"])
def test_a_run_that_was_saved_and_loaded_goes_on_bit_for_bit(
    pool2: WorkerPool, cases: list[Case], tmp_path: Path
) -> None:
    """The estimate, every scalar, the counters and the schedule are those of the run that never stopped."""
    results = pool2.run(all_of, cases, str(tmp_path), timeout=200)
    for index, case in enumerate(cases):
        for rank, result in enumerate(done[index] for done in results):
            assert_equal(result["loaded"], result["saved"], f"{case}, rank {rank}, as loaded")
            assert_equal(result["resumed"], result["whole"], f"{case}, rank {rank}, resumed")
            assert_equal(result["again"], result["whole"], f"{case}, rank {rank}, loaded twice after steps")
            assert_equal(result["whole"]["d"], results[0][index]["whole"]["d"], f"{case}, rank {rank} and rank 0")
            if case.method in WITH_D:
                assert result["whole"]["d"][-1] > case.optimizer_options.get("d0", result["first d"]), case


def assert_equal(found: Any, expected: Any, where: str) -> None:
    if isinstance(expected, dict):
        assert found.keys() == expected.keys(), where
        unused = {"weight_m", "weight_v"} if expected.get("exact_bias_correction") is False else set()  # not saved then
        for key in expected.keys() - unused:
            assert_equal(found[key], expected[key], f"{where}: {key}")
    elif isinstance(expected, list):
        assert len(found) == len(expected), where
        for index, pair in enumerate(zip(found, expected, strict=True)):
            assert_equal(*pair, f"{where}[{index}]")
    elif isinstance(expected, Tensor):
        assert same_bits(found, expected), where
    elif isinstance(expected, float):
        assert found.hex() == expected.hex(), where  # also NaN, the d of a method without one
    else:
        assert found == expected, where


# ---------------------------------------------------------------- weights without state


def warm_start(stage: int, precision: str, folder: str, options: dict[str, bool]) -> dict[str, Any]:
    """On every rank: train from the weights of a checkpoint alone, and in a new engine from a model with these weights."""
    case = Case(stage=stage, precision=precision, groups=3, sub_group=40)
    with Trainer(case) as trainer:
        for step in range(BEFORE):
            trainer.step(step)
        trainer.engine.save_checkpoint(folder)
        weights = trainer.weights()
    with Trainer(case) as trainer:
        step_at(trainer, 0.0)  # a warm-up begins so; the buffers, x0 too, are there from now on
        trainer.engine.load_checkpoint(folder, **options)
        step_at(trainer, 1.0)
        loaded = trainer.base.d, trainer.base.step_size.steps, trainer.weights()
        warm = go_on(trainer, BEFORE, 6)
    model = Odd()
    with torch.no_grad():
        for p, value in zip(model.parameters(), weights, strict=True):
            p.copy_(value)
    with Trainer(case, model, grouped(model)) as trainer:
        return {"warm": warm, "new": go_on(trainer, BEFORE, 6), "loaded": loaded, "saved": weights}


def step_at(trainer: Trainer, lr: float) -> None:
    """Set lr, and take a step when it is 0."""
    for group in trainer.base.param_groups:
        group["lr"] = lr
    if lr == 0:
        trainer.step(0)


def grouped(model: torch.nn.Module) -> list[dict[str, Any]]:
    params = list(model.parameters())
    pairs = zip(indices(3), DECAYS[3], strict=True)
    return [{"params": [params[i] for i in which], "weight_decay": decay} for which, decay in pairs]


def warm_starts(folder: str) -> list[dict[str, Any]]:
    no_state, module = {"load_optimizer_states": False}, {"load_module_only": True}
    tasks: list[tuple[int, str, dict[str, bool]]] = [
        (0, "fp32", module),
        (1, "fp32", no_state),
        (2, "bf16", module),
        (3, "fp32", no_state),
        (3, "bf16", no_state | module),  # load_module_only alone loads no weights at stage 3, whatever the optimizer
    ]
    return [warm_start(stage, how, f"{folder}/{number}", options) for number, (stage, how, options) in enumerate(tasks)]


@pytest.mark.timeout(240)
def test_weights_loaded_without_optimizer_states_are_the_new_start(pool2: WorkerPool, tmp_path: Path) -> None:
    """d is d0 and x0 the loaded weights, as in a run that began with them, although a step of lr 0 had set x0 before."""
    for results in pool2.run(warm_starts, str(tmp_path), timeout=200):
        for result in results:
            d, steps, weights = result["loaded"]
            assert (d, steps) == (OPTIONS["prodigy"]["d0"], 0)
            assert_equal(weights, result["saved"], "the loaded weights")
            assert_equal(result["warm"] | {"lr": 0}, result["new"] | {"lr": 0}, "a warm start")
            assert result["warm"]["d"][-1] > d


# ---------------------------------------------------------------- what is refused


def make(optimizer: str, stage: int, scheduler: bool = False) -> Any:
    """An engine with an optimizer of torch, prodigyopt or this package."""
    model = Odd()
    config = Case(stage=stage, config=WARMUP if scheduler else {}).deepspeed_config()
    classes = {"AdamW": torch.optim.AdamW, "prodigyopt": prodigyopt.Prodigy, **ALL}
    config["zero_allow_untested_optimizer"] = True
    base = classes[optimizer](model.parameters())
    return quiet_deepspeed().initialize(model=model, optimizer=base, config=config)[0]


def take_step(engine: Any) -> None:
    engine.backward(engine(torch.ones(3, 5)).square().mean())
    engine.step()


def kept(engine: Any) -> list[Any]:
    """What of the optimizer a refused checkpoint must leave: buffers, groups, and the weights that it moves."""
    base = engine.basic_optimizer
    state = [(p.detach().clone(), {n: t.clone() for n, t in base.state[p].items()}) for _, p in base._all_params()]
    return [list(pair) for pair in state] + [
        {k: v for k, v in dict(g).items() if k != "params"} for g in base._all_groups
    ]


def refusals(folder: str) -> dict[str, Any]:
    """On every rank: what is said of checkpoints of other optimizers, and what has changed by then."""
    done: dict[str, Any] = {}
    for stage in (0, 2, 3):
        for saved_by in ("AdamW", "prodigyopt", "dadapt_adam"):
            engine = make(saved_by, stage)
            take_step(engine)
            engine.save_checkpoint(f"{folder}/{stage}", saved_by)
            engine.destroy()
            engine = make("prodigy", stage)
            before, weights = kept(engine), [p.detach().clone() for p in engine.module.parameters()]
            try:
                engine.load_checkpoint(f"{folder}/{stage}", saved_by)
            except ValueError as error:
                changed = any(not torch.equal(a, b) for a, b in zip(weights, engine.module.parameters(), strict=True))
                done[f"{saved_by} {stage}"] = str(error), before, kept(engine), changed, engine.global_steps
            engine.destroy()
    return done


@pytest.mark.timeout(240)
def test_a_checkpoint_of_another_optimizer_is_refused_by_name_and_the_optimizer_stays(
    pool2: WorkerPool, tmp_path: Path
) -> None:
    """By then DeepSpeed has loaded the model's weights at stages 0 to 2; the weights that the optimizer moves are as they were.

    At stage 0 without low precision the two are the same tensors.
    """
    for done in pool2.run(refusals, str(tmp_path), timeout=200):
        assert len(done) == 9
        for name, (message, before, after, changed, _) in done.items():
            saved_by, stage = name.split()
            whose = "of the method 'dadapt_adam'" if saved_by == "dadapt_adam" else "of another optimizer"
            assert f"the checkpoint is {whose}, this optimizer is 'prodigy'" in message, name
            assert changed == (stage != "3"), name
            if stage != "0":
                assert_equal(after, before, name)


def cannot_resize(folder: str) -> dict[str, str]:
    """On one rank: what DeepSpeed says of checkpoints of two."""
    done = {}
    for stage in (1, 2, 3):
        with Trainer(Case(stage=stage)) as trainer:
            try:
                trainer.engine.load_checkpoint(f"{folder}/{stage}")
            except Exception as error:
                done[str(stage)] = str(error)
    with Trainer(Case(stage=0)) as trainer:
        trainer.engine.load_checkpoint(f"{folder}/0")
        done["0"] = str(trainer.base.d)
    return done


def saved_mid_flight(folder: str) -> dict[str, Any]:
    """On every rank: rank 0 alone takes the state while the reduce is under way; what zero_to_fp32 makes of checkpoints."""
    from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint

    done: dict[str, Any] = {}
    for stage in (0, 1, 2, 3):
        with Trainer(Case(stage=stage)) as trainer:
            for step in range(BEFORE):
                trainer.step(step)
                if dist.get_rank() == 0:
                    done["alone"] = trainer.wrapper.state_dict() is not None
            trainer.engine.save_checkpoint(f"{folder}/{stage}")
            done[f"d {stage}"] = str(trainer.base.d)
            if stage:
                masters = trainer.masters()
                found = get_fp32_state_dict_from_zero_checkpoint(f"{folder}/{stage}")
                done[f"fp32 {stage}"] = all(torch.equal(found[n], m) for n, m in zip(NAMES, masters, strict=True))
    return done


@pytest.mark.timeout(240)
def test_another_number_of_ranks_needs_a_universal_checkpoint_but_at_stage_0(
    pools: Callable[[int], WorkerPool], tmp_path: Path
) -> None:
    """DeepSpeed's tools read the files too, and a rank alone may take the state at any moment."""
    results = pools(2).run(saved_mid_flight, str(tmp_path), timeout=200)
    for done in results:
        assert all(done[f"fp32 {stage}"] for stage in (1, 2, 3))
        assert all(done[key] == results[0][key] for key in ("d 0", "d 1", "d 2", "d 3"))
        # The stages cut elsewhere, so that the sums are added up in another order.
        assert [float(done[f"d {stage}"]) for stage in (1, 2, 3)] == pytest.approx([float(done["d 0"])] * 3, rel=1e-9)
    (said,) = pools(1).run(cannot_resize, str(tmp_path), timeout=100)
    assert said.pop("0") == results[0]["d 0"]
    assert all("world size of 2 but the current world size is 1" in text for text in said.values())
    assert len(said) == 3
