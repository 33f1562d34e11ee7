"""Check that a DeepSpeed run continues with another number of ranks and every buffer, and never loses any silently."""

import shutil
import subprocess
import sys
from argparse import Namespace
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from dadapt_dist.integrations.deepspeed import universal_load
from tests.helpers.classes import IN_ONE_GO, SETTINGS, WITH_D
from tests.helpers.deepspeed_reference import deviation, deviation_of_d, reference
from tests.helpers.deepspeed_runs import Case, Odd, Trainer, quiet_deepspeed, same_bits
from tests.helpers.pool import WorkerPool

BEFORE, STEPS = 5, 9
UNIVERSAL = {"checkpoint": {"load_universal": True}}
SLOW = {
    "dadapt_adam": {"growth_rate": 1.5},
    "adam_pp": {"lr": 0.05},
}  # else d would jump, and float32 drift from float64
PLAIN = {
    (stage, method): Case(stage=stage, method=method, groups=3, sub_group=40, steps=STEPS, options=SLOW.get(method, {}))
    for stage in (2, 3)
    for method in IN_ONE_GO
}
CASES = [*PLAIN.values()]
CASES += [Case(stage=1, method=method, groups=3, steps=STEPS) for method in ("prodigy", "dadapt_sgd")]
CASES.append(Case(stage=3, groups=3, sub_group=40, offload="optimizer", steps=STEPS))
AUTO = {
    **SETTINGS["prodigy auto"],
    "weight_decay": 0.0,
    "use_bias_correction": False,
    "total_steps": 30,
    "growth_rate": 1.5,
    "d0": 5e-3,
}
CASES.append(Case(stage=2, groups=3, options=AUTO, steps=STEPS))
EVERY_METHOD_ONCE = [PLAIN[2 + number % 2, method] for number, method in enumerate(IN_ONE_GO)] + CASES[len(PLAIN) :: 2]
# Other numbers of ranks round bfloat16 gradients otherwise: compared at the same number only.
SAME = [
    *(PLAIN[2, method] for method in ("dadapt_adagrad", "dog", "cocob") if method in IN_ONE_GO),
    *(PLAIN[3, m] for m in ("dadapt_adagrad", "dadapt_adan", "dadapt_sgd", "dog", "cocob") if m in IN_ONE_GO),
    Case(stage=1, method="dadapt_sgd", groups=3, precision="bf16+fp32", steps=STEPS),
]


def save(case: Case, folder: str) -> dict[str, Any]:
    """On every rank: train, save, convert, and go on without a stop."""
    with Trainer(case) as trainer:
        for step in range(BEFORE):
            trainer.step(step)
        trainer.engine.save_checkpoint(folder)
        if dist.get_rank() == 0:
            universal_load.convert(folder, f"{folder}/universal")
        dist.barrier()
        return go_on(trainer)


def resume(case: Case, folder: str, by_us: bool = True) -> dict[str, Any]:
    """On every rank: load the universal checkpoint in a new engine, and go on."""
    with Trainer(replace(case, config=UNIVERSAL)) as trainer:
        if by_us:
            universal_load.load(trainer.engine, folder)
        else:
            trainer.engine.load_checkpoint(folder)
        return go_on(trainer)


def go_on(trainer: Trainer) -> dict[str, Any]:
    """The rest of the steps. decays: of the groups, each its own."""
    ds = []
    for step in range(BEFORE, STEPS):
        trainer.step(step)
        ds.append(trainer.base.d)
    trainer.base.step_size._settle()  # which reading d has done, of a method that has one
    groups, steps = trainer.base._all_groups, trainer.base.step_size.steps
    counts = {"steps": steps, "k": int(groups[0]["k"]), "decays": [group["weight_decay"] for group in groups]}
    return {"d": ds, "masters": trainer.masters(), "weights": trainer.weights(), **counts}


def all_of(fn: Callable[..., Any], cases: Sequence[Case], folder: str, *args: Any) -> list[Any]:
    return [fn(case, f"{folder}/{index}", *args) for index, case in enumerate(cases)]


@pytest.mark.in_one_go
@pytest.mark.timeout(240)
@pytest.mark.parametrize(("there", "here", "cases"), [(2, 1, CASES), (1, 2, EVERY_METHOD_ONCE)], ids=["2-1", "1-2"])
def test_a_run_goes_on_with_another_number_of_ranks_as_if_it_had_had_it_from_the_start(
    pools: Callable[[int], WorkerPool], tmp_path: Path, there: int, here: int, cases: list[Case]
) -> None:
    """Every method's buffers come along: one process in float64 gives the same d, before and after the change."""
    saved = pools(there).run(all_of, save, cases, str(tmp_path), timeout=200)[0]
    for number, results in enumerate(
        zip(*pools(here).run(all_of, resume, cases, str(tmp_path), timeout=200), strict=True)
    ):
        case, result, before = cases[number], results[0], saved[number]
        expected = reference(case)
        assert all([d.hex() for d in other["d"]] == [d.hex() for d in result["d"]] for other in results), case
        assert deviation_of_d(result["d"], before["d"]) < 2e-6, case
        assert deviation_of_d(result["d"], expected.d[BEFORE:]) < 2e-6, case
        assert deviation(result["masters"], expected.params) < 5e-5, case
        assert {**result, **TENSORS} == {**before, **TENSORS, "d": result["d"]}, case
        assert expected.d[-1] > expected.d[0] or case.method not in WITH_D or case.method == "adam_pp", (
            case
        )  # it goes less far


def evaluating(case: Case, folder: str) -> bool:
    """On every rank: whether a run that is saved in evaluation mode, converted and loaded goes on with the same bits."""
    with Trainer(case) as trainer:
        for step in range(BEFORE):
            trainer.step(step)
        trainer.base.eval()
        trainer.engine.save_checkpoint(folder)
        if dist.get_rank() == 0:
            universal_load.convert(folder, f"{folder}/universal")
        dist.barrier()
        trainer.base.train()
        whole = go_on(trainer)
    with Trainer(replace(case, config=UNIVERSAL)) as trainer:
        universal_load.load(trainer.engine, folder)
        trainer.base.train()
        resumed = go_on(trainer)
        same = [torch.equal(a, b) for name in TENSORS for a, b in zip(whole[name], resumed[name], strict=True)]
    return all(same) and whole["d"] == resumed["d"]


@pytest.mark.parametrize("stage", [2, 3])
def test_an_average_that_was_saved_in_evaluation_goes_on_bit_for_bit(
    stage: int, pool2: WorkerPool, tmp_path: Path
) -> None:
    options = {"average": 8.0, "reps_rel": 0.05}
    case = Case(stage=stage, method="dog", options=options, precision="bf16+fp32", steps=STEPS)
    assert all(pool2.run(evaluating, case, str(tmp_path), timeout=200))


@pytest.mark.timeout(240)
def test_the_same_number_of_ranks_goes_on_bit_for_bit(pool2: WorkerPool, tmp_path: Path) -> None:
    """Also by engine.load_checkpoint alone, at stages 1 and 2."""
    saved = pool2.run(all_of, save, SAME, str(tmp_path), timeout=200)
    by_us = pool2.run(all_of, resume, SAME, str(tmp_path), timeout=200)
    plain = pool2.run(all_of, resume_plain, SAME, str(tmp_path), timeout=200)
    for number, case in enumerate(SAME):
        for whole, *others in zip(saved, by_us, plain, strict=True):
            for result in (other[number] for other in others if other[number]):
                assert deviation_of_d(result["d"], whole[number]["d"]) == 0, case
                assert {**result, **TENSORS, "d": 0} == {**whole[number], **TENSORS, "d": 0}, case
                for name in TENSORS:
                    pairs = zip(result[name], whole[number][name], strict=True)
                    assert all(torch.equal(a, b) for a, b in pairs), case


def resume_plain(case: Case, folder: str) -> dict[str, Any] | None:
    return resume(case, folder, by_us=False) if case.stage < 3 else None


TENSORS = dict.fromkeys(("masters", "weights"))


# ---------------------------------------------------------------- what is refused


def said(work: Callable[[], Any]) -> str:
    try:
        work()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "nothing"


def by_deepspeed(folder: str) -> None:
    """On rank 0: what DeepSpeed's own converter makes of a checkpoint, beside ours."""
    from deepspeed.checkpoint import ds_to_universal

    if dist.get_rank() == 0:
        tag = Path(folder, "latest").read_text()
        options = {"num_extract_workers": 1, "num_merge_workers": 1, "keep_temp_folder": False, "strict": True}
        given = {"input_folder": f"{folder}/{tag}", "output_folder": f"{folder}/theirs", "inject_missing_state": True}
        ds_to_universal.main(Namespace(**options, **given))
    dist.barrier()


def held(trainer: Trainer) -> Any:
    """A copy of everything that a refused checkpoint must leave alone."""
    state = [{name: t.clone() for name, t in trainer.base.state[p].items()} for _, p in trainer.base._all_params()]
    groups = [{k: v for k, v in dict(group).items() if k != "params"} for group in trainer.base._all_groups]
    return state, groups, trainer.weights(), trainer.masters(), trainer.engine.global_steps


def same(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return same_bits(one, other)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(same(a, b) for a, b in zip(one, other, strict=True))
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    return bool(one == other)


REFUSED = {2: Case(stage=2, groups=3, config=UNIVERSAL), 3: Case(stage=3, groups=3, config=UNIVERSAL)}


def refusals(folder: str) -> dict[str, Any]:
    """On every rank: what is said of checkpoints that do not fit."""
    done: dict[str, Any] = {}
    for stage, case in REFUSED.items():
        done[f"whole {stage}"] = save(replace(case, config={}), f"{folder}/{stage}")
    by_deepspeed(f"{folder}/2")
    wrong = {
        "method": replace(REFUSED[2], method="dadapt_adam"),
        "groups": replace(REFUSED[2], groups=4),
        "stage": REFUSED[3],
        "flag": replace(REFUSED[2], config={}),
        "stage 0": replace(REFUSED[2], stage=0),
        "buffers": replace(REFUSED[2], method="dadapt_sgd"),
    }
    for name, case in wrong.items():
        with Trainer(case) as trainer:
            before = held(trainer)
            done[name] = said(lambda trainer=trainer: universal_load.load(trainer.engine, f"{folder}/2", "universal"))
            done[f"{name} unchanged"] = same(before, held(trainer))
    with Trainer(REFUSED[2]) as trainer:
        done["theirs"] = said(lambda: universal_load.load(trainer.engine, f"{folder}/2", "theirs"))
        done["nowhere"] = said(lambda: universal_load.load(trainer.engine, f"{folder}/2", "nowhere"))
        tag = Path(folder, "2", "latest").read_text()
        done["not converted"] = said(lambda: universal_load.load(trainer.engine, f"{folder}/2", tag))
        trainer.engine.load_checkpoint(f"{folder}/2", "theirs")
        done["theirs, plain"] = said(lambda: trainer.step(BEFORE)), said(trainer.base.state_dict)
    with Trainer(REFUSED[3]) as trainer:
        trainer.engine.load_checkpoint(f"{folder}/3")
        done["stage 3, plain"] = said(lambda: trainer.step(BEFORE)), said(trainer.base.state_dict)
    with Trainer(REFUSED[3]) as trainer:
        trainer.engine.load_checkpoint(f"{folder}/3")
        universal_load.load(trainer.engine, f"{folder}/3")
        done["stage 3, by us after all"] = go_on(trainer)
    return done


@pytest.mark.timeout(240)
def test_a_universal_checkpoint_that_does_not_fit_is_refused_by_name_and_changes_nothing(
    pool2: WorkerPool, tmp_path: Path
) -> None:
    for done in pool2.run(refusals, str(tmp_path), timeout=200):
        assert "is of the method 'prodigy', this optimizer is 'dadapt_adam'" in done["method"]
        assert "has 3 parameter groups, the optimizer 4" in done["groups"]
        assert "was saved at ZeRO stage 2" in done["stage"]
        assert '"checkpoint": {"load_universal": true}' in done["flag"]
        assert "at any number of ranks" in done["stage 0"]
        assert "is of the method 'prodigy'" in done["buffers"]
        assert all(done[key] for key in done if key.endswith("unchanged"))
        assert "DeepSpeed's own converter, which leaves out p0, s" in done["theirs"]
        assert "there is no folder" in done["nowhere"]
        assert "is no universal checkpoint" in done["not converted"]
        for text in done["theirs, plain"]:
            assert "leaves out p0, s. Make it anew" in text
        for text in done["stage 3, plain"]:
            assert "not p0, s. Load it with dadapt_dist.universal.load(engine, folder)" in text
        assert done["stage 3, by us after all"]["d"] == done["whole 3"]["d"]


def adamw(folder: str) -> None:
    """On every rank: a checkpoint of torch's AdamW, and ones of ours at stages 0 to 3."""
    model = Odd()
    config = REFUSED[2].deepspeed_config() | {"checkpoint": {}}
    engine = quiet_deepspeed().initialize(model=model, optimizer=torch.optim.AdamW(model.parameters()), config=config)[
        0
    ]
    engine.backward(engine(torch.ones(3, 5)).square().mean())
    engine.step()
    engine.save_checkpoint(f"{folder}/adamw")
    engine.destroy()
    for stage in (0, 2, 3):
        with Trainer(Case(stage=stage)) as trainer:
            trainer.step(0)
            trainer.engine.save_checkpoint(f"{folder}/{stage}")


@pytest.fixture(scope="module")
def saved(pools: Callable[[int], WorkerPool], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved")
    pools(2).run(adamw, str(folder), timeout=100)
    return folder


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-200])


SPOILED: dict[str, tuple[str, Callable[[Path], Any], str]] = {
    "other optimizer": ("adamw", lambda at: None, "is of another optimizer"),
    "stage 0": ("0", lambda at: None, "needs no conversion"),
    "nothing there": ("2", lambda at: [path.unlink() for path in at.glob("*.pt")], "is no DeepSpeed checkpoint"),
    "cut off": ("2", lambda at: cut(next(at.glob("*rank_1*_optim_states.pt"))), "is cut off"),
    "a rank is gone": ("2", lambda at: next(at.glob("*rank_1*_optim_states.pt")).unlink(), "Nothing was written"),
    "a rank of stage 3": (
        "3",
        lambda at: [path.unlink() for path in at.glob("*rank_1_*")],
        "Nothing was written",
    ),
    "no model": ("2", lambda at: [path.unlink() for path in at.glob("*model_states.pt")], "Nothing was written"),
    "a buffer is gone": (
        "3",
        lambda at: edit(at, lambda packed: packed["state"][0].pop("s")),
        "lacks the buffers s of tensor 0",
    ),
    "a scalar is gone": (
        "2",
        lambda at: edit(at, lambda packed: packed["param_groups"][0].pop("d")),
        "lacks d of prodigy",
    ),
}


def edit(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    for path in folder.glob("*_optim_states.pt"):
        content = torch.load(path, weights_only=False)
        zero = content["optimizer_state_dict"]
        change(zero.get("base_optimizer_state") or zero["optimizer_state_dict"])
        torch.save(content, path)


@pytest.mark.parametrize("name", SPOILED)
def test_what_cannot_be_converted_whole_is_refused_and_leaves_nothing(saved: Path, tmp_path: Path, name: str) -> None:
    source, spoil, message = SPOILED[name]
    shutil.copytree(saved / source, tmp_path / "in")
    spoil(tmp_path / "in" / "global_step1")
    with pytest.raises(ValueError, match=message):
        universal_load.convert(tmp_path / "in", tmp_path / "out" / "universal")
    assert not list((tmp_path / "out").glob("*")) if (tmp_path / "out").exists() else True


def test_a_converter_that_leaves_a_parameter_out_is_noticed(
    saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from deepspeed.checkpoint import ds_to_universal

    convert = ds_to_universal.main

    def forgetful(options: Namespace) -> None:
        convert(options)
        shutil.rmtree(Path(options.output_folder) / "zero" / "head.bias")

    monkeypatch.setattr(ds_to_universal, "main", forgetful)
    with pytest.raises(ValueError, match=r"head\.bias/exp_avg did not come whole"):
        universal_load.convert(saved / "2", tmp_path / "universal")
    assert not list(tmp_path.iterdir())


def test_the_command_converts_a_tag_and_refuses_what_is_there(saved: Path, tmp_path: Path) -> None:
    """One line of error and exit code 2, or the folder, with `latest_universal` beside it."""
    shutil.copytree(saved / "2", tmp_path / "in")
    command = [
        sys.executable,
        "-m",
        "dadapt_dist.universal",
        str(tmp_path / "in" / "global_step1"),
        str(tmp_path / "out"),
    ]
    first, second = (subprocess.run(command, capture_output=True, text=True, timeout=100) for _ in range(2))
    assert (first.returncode, second.returncode) == (0, 2), first.stderr
    assert (tmp_path / "latest_universal").read_text() == "out"
    assert {path.name for path in (tmp_path / "out" / "zero" / "head.bias").iterdir()} == {
        "fp32.pt", "exp_avg.pt", "exp_avg_sq.pt", "p0.pt", "s.pt",
    }  # fmt: skip
    assert f"error: {tmp_path / 'out'} exists" in second.stderr
    with pytest.raises(ValueError, match="is a universal checkpoint already"):
        universal_load.convert(tmp_path / "out", tmp_path / "again")
    with pytest.raises(ValueError, match="there is no folder"):
        universal_load.convert(tmp_path / "in", tmp_path / "again", tag="global_step7")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "latest_universal", "out"]
