"""Check that `dadapt-dist doctor` sees its environment and every setting that breaks learning-rate-free training."""

import copy
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from typer.testing import CliRunner, Result

import dadapt_dist as dd
from dadapt_dist.methods.registry import class_names, tensors_of
from dadapt_dist.tools.cli import app
from dadapt_dist.tools.doctor import config_files, deepspeed_config, deepspeed_model, deepspeed_zero
from tests.helpers.launchers import ROOT, environment

GOOD: dict[str, Any] = {
    "train_micro_batch_size_per_gpu": 8,
    "gradient_clipping": 1.0,
    "optimizer": {"type": "Prodigy", "params": {"lr": 1.0, "safeguard_warmup": True}},
    "scheduler": {
        "type": "WarmupDecayLR",
        "params": {"total_num_steps": 100, "warmup_num_steps": 5, "warmup_max_lr": 1.0},
    },
    "zero_optimization": {"stage": 2},
}
OFFLOAD = {"zero_optimization": {"stage": 3, "offload_optimizer": {"device": "cpu"}}}
NVME = {"zero_optimization": {"stage": 3, "offload_optimizer": {"device": "nvme", "buffer_count": 5}}}


def changed(**sections: Any) -> dict[str, Any]:
    """GOOD with other sections; None takes one away."""
    config = {**copy.deepcopy(GOOD), **sections}
    return {name: value for name, value in config.items() if value is not None}


def with_params(**params: Any) -> dict[str, Any]:
    return changed(optimizer={"type": "Prodigy", "params": {**GOOD["optimizer"]["params"], **params}})


def scheduler(kind: str, **params: Any) -> dict[str, Any]:
    return changed(scheduler={"type": kind, "params": params})


def said(config: dict[str, Any]) -> list[tuple[str, str, bool]]:
    found = deepspeed_config.check(config)
    return [(f.where, f"{f.problem}; {f.cure}", f.is_error) for f in found if not f.is_note]


def doctor(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["doctor", "--no-reduce", *map(str, arguments)], env={"COLUMNS": "200"})


# ---------------------------------------------------------------- DeepSpeed


def test_nothing_is_said_of_what_is_right() -> None:
    assert said(GOOD) == []


@pytest.mark.parametrize(
    ("config", "where", "what"),
    [
        (changed(optimizer={"type": "prodgy"}), "optimizer.type", "did you mean Prodigy?"),
        (changed(optimizer={"type": "Adam", "params": {"lr": 1.0}}), "optimizer.type", "no method of dadapt_dist"),
        (with_params(lr=1e-4), "optimizer.params.lr", "0.0001, not 1.0: it multiplies .* set it to 1.0"),
        (with_params(beta=0.9), "optimizer.params", "unknown keyword 'beta'; did you mean 'betas'"),
        (with_params(d0=-1.0), "optimizer.params", "d0=-1.0"),
        (with_params(max_grad_norm=1.0), "optimizer.params.max_grad_norm", "use gradient_clipping"),
        (scheduler("WarmupLR", warmup_max_lr=0.1), "scheduler.params.warmup_max_lr", "0.1, .* set it to 1.0"),
        (scheduler("WarmupDecayLR", total_num_steps=9), "scheduler.params.warmup_max_lr", "0.001, .* set it to 1.0"),
        (scheduler("WarmupDecay"), "scheduler.type", "'WarmupDecay' is no scheduler .* did you mean WarmupDecayLR"),
        (with_params(slice_p=11), "optimizer.params.slice_p", "at stage 2 .* set it to 1"),
        (with_params(copies="x"), "optimizer.params", "copies='x' must be a function"),
        (with_params(process_group="x"), "optimizer.params", "process_group='x' must be a process group"),
        (scheduler("OneCycle", cycle_min_lr=0.0, cycle_max_lr=0.1), "scheduler.params.cycle_max_lr", "set it to 1.0"),
        (scheduler("LRRangeTest"), "scheduler.type", "remove the scheduler"),
        (scheduler("Optimizer"), "scheduler.type", "'Optimizer' is no scheduler of DeepSpeed"),
        (scheduler("__class__", a=1), "scheduler.type", "'__class__' is no scheduler of DeepSpeed"),
        ({**changed(optimizer=None, scheduler=None), **OFFLOAD}, "zero_force_ds_cpu_optimizer", "set it to false"),
        ({**GOOD, **NVME}, "zero_optimization.offload_optimizer.buffer_count", "5 is fewer than the 6 .* set it to 6"),
        (changed(zero_optimization={"stage": 2, "zenflow": {"topk_ratio": 0.1}}), "zero_optimization.zenflow", "remove"),
        (
            changed(zero_optimization={"stage": 2, "elastic_checkpoint": True}),
            "zero_optimization.elastic_checkpoint",
            "d is in them",
        ),
        (changed(amp={"enabled": True}), "amp.enabled", "use bf16"),
        (changed(amp=True), "amp.enabled", "use bf16"),
        (
            changed(zero_optimization={"stage": 3, "offload_optimizer": {"device": "cpu", "ratio": 0.5}}),
            "zero_optimization.offload_optimizer.ratio",
            "set it to 1",
        ),
    ],
)  # fmt: skip
def test_each_wrong_setting_is_named_with_its_cure(config: dict[str, Any], where: str, what: str) -> None:
    ((at, text, is_error),) = said(config)
    assert (at, is_error) == (where, True)
    assert re.search(what, text), text


@pytest.mark.parametrize(
    ("config", "where"),
    [
        (changed(gradient_clipping=None), "gradient_clipping"),
        (scheduler("WarmupLR", warmup_num_steps=5), "scheduler.params.warmup_max_lr"),
        (with_params(nonfinite="skip"), "optimizer.params.nonfinite"),
        (with_params(safeguard_warmup=False), "scheduler.params.warmup_num_steps"),
    ],
)
def test_what_is_only_worse_is_no_error(config: dict[str, Any], where: str) -> None:
    assert [(at, is_error) for at, _, is_error in said(config)] == [(where, False)]


@pytest.mark.parametrize(
    "config",
    [
        changed(zero_optimization={"stage": 3, "elastic_checkpoint": True}),  # DeepSpeed leaves it out there
        changed(zero_optimization={"stage": 2, "zenflow": None, "elastic_checkpoint": "false"}),
        changed(
            zero_optimization={"stage": 2, "offload_optimizer": {"device": "none"}}, optimizer=None, scheduler=None
        ),
        scheduler("CosineAnnealingLR", T_max=100),  # torch's
    ],
)
def test_what_is_off_or_of_no_effect_is_no_finding(config: dict[str, Any]) -> None:
    assert said(config) == []


@pytest.mark.parametrize(
    ("name", "version", "found"),
    [
        ("fp16", (0, 18, 2), []),
        ("fp16", (0, 19, 8), [True]),
        ("fp16", None, [False]),
        ("bf16", (0, 17, 5), []),
        ("bf16", (0, 18, 5), [True]),
        ("bf16", (0, 18, 6), []),
    ],
)
def test_precisions_that_deepspeed_gets_wrong_at_stage_0(
    name: str, version: tuple[int, ...] | None, found: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deepspeed_zero, "deepspeed_version", lambda: version)
    at_stage_0 = changed(zero_optimization=None) | {name: {"enabled": True}}
    assert [is_error for _, _, is_error in said(at_stage_0)] == found
    assert said(changed() | {name: {"enabled": True}}) == []
    for value in (False, "auto"):
        assert said(at_stage_0 | {name: {"enabled": value}}) == []


def test_an_option_that_is_auto_is_left_to_whoever_fills_it_in() -> None:
    assert said(with_params(weight_decay="auto")) == []


def test_a_learning_rate_that_is_auto_is_wrong_unless_something_fills_it_in_with_1() -> None:
    plain, filled = with_params(lr="auto"), with_params(lr="auto") | {"train_micro_batch_size_per_gpu": "auto"}
    assert [(at, is_error) for at, _, is_error in said(plain)] == [("optimizer.params.lr", True)]
    assert [(at, is_error) for at, _, is_error in said(filled)] == [("optimizer.params.lr", False)]
    assert [*deepspeed_config.check(filled, alone=False, lr=1.0)] == []
    (finding,) = deepspeed_config.check(filled, alone=False, lr=5e-5)
    assert finding.is_error
    assert '"auto" is the Trainer\'s learning_rate, which is 5e-05, not 1.0' in str(finding)


def test_the_numbers_of_tensors_are_those_of_the_methods() -> None:
    for name in class_names():
        optimizer = getattr(dd, name)([torch.nn.Parameter(torch.ones(3))])
        optimizer.param_groups[0]["params"][0].grad = torch.ones(3)
        optimizer.loss = 1.0  # some methods take it
        optimizer.step()
        (state,) = optimizer.state.values()
        assert tensors_of(name) == 2 + len(state), name


# ---------------------------------------------------------------- names and values, as DeepSpeed itself has them


@pytest.mark.parametrize(
    ("config", "where", "what"),
    [
        (changed() | {"gradient_cliping": 1.0}, "gradient_cliping", "remove it: gradient_clipping is there, too"),
        (changed() | {"steps_per_prnt": 1}, "steps_per_prnt", "passes over it; did you mean steps_per_print?"),
        (changed() | {"fp16": {"los_scale": 1}}, "fp16.los_scale", "refuses a setting .* did you mean loss_scale?"),
        (changed() | {"tensorboard": {"enabeld": 1}}, "tensorboard.enabeld", "did you mean enabled?"),
        (changed() | {"flops_profiler": {"enabeld": 1}}, "flops_profiler.enabeld", "did you mean enabled?"),
        (changed() | {"checkpoint": {"tag_validation": "x"}}, "checkpoint", "DeepSpeed refuses .*tag_validation"),
        (changed() | {"activation_checkpointing": []}, "activation_checkpointing", r"cannot read \[\]"),
        (changed() | {"fp16": 3}, "fp16", '3 is no section of settings; write {"enabled": true}'),
        (changed(optimizer="Prodigy", scheduler=None), "optimizer", '"Prodigy" is no section of settings; write {"type":'),
        (changed(optimizer={"params": {"lr": 1.0}}), "optimizer.type", "there is none; It has .*Prodigy"),
        (changed(zero_optimization={"stage": 7}), "zero_optimization.stage", "7 is no stage .* set it to 0, 1, 2 or 3"),
        (changed(zero_optimization={"stage": "two"}), "zero_optimization.stage", '"two" is no stage'),
        (
            changed(zero_optimization={"stage": 2, "overlap_com": True}),
            "zero_optimization.overlap_com",
            "did you mean overlap_comm?",
        ),
        (
            changed(zero_optimization={"stage": 2, "reduce_bucket_size": "x"}),
            "zero_optimization.reduce_bucket_size",
            '"x" is refused by DeepSpeed; it must be a valid integer',
        ),
        (
            changed(zero_optimization={"stage": 2, "offload_param": {"devise": "cpu"}}),
            "zero_optimization.offload_param.devise",
            "did you mean device?",
        ),
        (changed() | {"fp16": {"enabled": True}, "bf16": {"enabled": True}}, "bf16.enabled", "fp16 is enabled, too"),
        (changed(train_micro_batch_size_per_gpu=None), "train_micro_batch_size_per_gpu", "there is no batch size"),
        (changed(train_micro_batch_size_per_gpu=0), "train_micro_batch_size_per_gpu", "0 is no whole number from 1"),
        (changed(train_batch_size=12), "train_batch_size", "12 is no multiple of train_micro_batch_size_per_gpu = 8"),
        (changed(gradient_clipping=float("nan")), "gradient_clipping", "NaN is no number from 0"),
        (
            scheduler("WarmupLR", warmup_step=5, warmup_max_lr=1.0),
            "scheduler.params.warmup_step",
            "did you mean warmup_num_steps?",
        ),
        (scheduler("WarmupDecayLR", warmup_max_lr=1.0), "scheduler.params.total_num_steps", "WarmupDecayLR needs it"),
    ],
)  # fmt: skip
def test_what_deepspeed_does_not_know_or_refuses_is_named(config: dict[str, Any], where: str, what: str) -> None:
    ((at, text, is_error),) = said(config)
    assert (at, is_error) == (where, True)
    assert re.search(what, text), text


def test_several_mistakes_are_all_reported() -> None:
    config = with_params(beta=0.9, d0=-1.0, betas="x") | {"zero_optimization": {"stage": 7, "overlap_com": 1}}
    config = {**config, "fp16": {"los_scale": 1}, "gradient_cliping": 1.0}
    places = [at for at, _, _ in said(config)]
    wanted = ["zero_optimization.stage", "zero_optimization.overlap_com", "fp16.los_scale", "gradient_cliping"]
    assert sorted(places) == sorted(["optimizer.params"] * 3 + wanted)


def test_a_name_that_is_like_no_other_is_no_error_and_a_note_is_none() -> None:
    found = said(changed() | {"_comment": "of mine", "": 1, "owner": "x"})
    assert [(where, is_error) for where, _, is_error in found] == [('""', False), ("owner", False)]
    for _, text, _ in found:
        assert re.fullmatch(
            r"DeepSpeed [\d.]+ does not know it, .* remove it, or let it begin with _ if it is a note", text
        )


def test_without_deepspeed_a_note_says_what_was_not_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deepspeed_model, "_model", lambda: None)
    (finding,) = deepspeed_config.check(changed() | {"gradient_cliping": 1.0})
    assert finding.is_note
    assert "cannot be imported here" in str(finding)


def test_a_config_without_an_optimizer_has_a_note() -> None:
    (finding,) = deepspeed_config.check(changed(optimizer=None, scheduler=None))
    assert str(finding).startswith("note: optimizer: there is no entry, so the script must give")
    assert [*deepspeed_config.check(changed(optimizer=None, scheduler=None), alone=False)] == []


# DeepSpeed 0.14.4 uses another pydantic, and knows fewer settings.
OLDEST = """
import json, sys
from dadapt_dist.tools.doctor import deepspeed_config
print(json.dumps([[f.where, str(f)] for f in deepspeed_config.check(json.loads(sys.argv[1]))]))
"""


@pytest.mark.matrix  # importing it takes ten seconds
def test_the_oldest_deepspeed_is_asked_in_the_same_way() -> None:
    oldest = Path(sys.prefix) / "deepspeed-0.14.4"
    if not oldest.is_dir():
        pytest.skip("make setup adds it")
    config = changed(zero_optimization={"stage": 2, "overlap_com": True, "offload_param": {"devise": "cpu"}})
    config |= {"gradient_cliping": 1.0, "torch_autocast": {"enabled": True}}
    env = environment(PYTHONPATH=f"{oldest}:{ROOT}")
    line = [sys.executable, "-c", OLDEST, json.dumps(config)]
    done = subprocess.run(line, env=env, capture_output=True, text=True, timeout=100, check=True)
    found = dict(json.loads(done.stdout))
    assert "did you mean overlap_comm?" in found["zero_optimization.overlap_com"]
    assert "did you mean device?" in found["zero_optimization.offload_param.devise"]
    assert found["gradient_cliping"].startswith("wrong: ")
    assert found["torch_autocast"].startswith("better: ")


# ---------------------------------------------------------------- every committed config


@pytest.mark.parametrize("path", sorted((ROOT / "configs").rglob("*.*")), ids=lambda path: path.name)
def test_nothing_is_wrong_with_the_committed_configs(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    report = config_files.check_all([path])
    assert report.checked
    assert [(findings, report.unreadable) for _, _, findings in report.checked if findings or report.unreadable] == []


# ---------------------------------------------------------------- the command


def test_a_wrong_file_is_exit_code_1_and_a_right_one_0(tmp_path: Path) -> None:
    good, bad = tmp_path / "good.json", tmp_path / "bad.json"
    good.write_text(json.dumps(GOOD))
    bad.write_text(json.dumps(with_params(lr=0.1)))
    done = doctor(good)
    assert done.exit_code == 0, done.output
    assert f"{good} (DeepSpeed): nothing wrong" in done.output
    assert done.output.splitlines()[-1] == "verdict: nothing wrong"
    done = doctor(good, bad)
    assert done.exit_code == 1
    assert "wrong: optimizer.params.lr: the learning rate is 0.1, not 1.0: it multiplies" in done.output


def test_accelerate_and_the_file_it_names(tmp_path: Path) -> None:
    named, path = tmp_path / "ds.json", tmp_path / "a.yaml"
    named.write_text(json.dumps(with_params(lr=0.1)))
    config = {"distributed_type": "DEEPSPEED", "deepspeed_config": {"deepspeed_config_file": str(named)}}
    path.write_text(yaml.safe_dump(config))
    done = doctor(path)
    assert done.exit_code == 1
    assert f"{named} (DeepSpeed)" in done.output
    path.write_text(yaml.safe_dump({"distributed_type": "FSDP", "fsdp_config": {"fsdp_use_orig_params": "false"}}))
    assert "fsdp_config.fsdp_use_orig_params" in doctor(path).output
    offload = {"distributed_type": "DEEPSPEED", "deepspeed_config": {"offload_optimizer_device": "cpu"}}
    path.write_text(yaml.safe_dump(offload))
    assert "puts DeepSpeedCPUAdam in the place" in doctor(path).output
    offload["deepspeed_config"]["offload_optimizer_device"] = None
    path.write_text(yaml.safe_dump(offload))
    assert doctor(path).exit_code == 0


def test_the_trainers_default_learning_rate(tmp_path: Path) -> None:
    path = tmp_path / "args.json"
    path.write_text(json.dumps({"output_dir": "out", "warmup_ratio": 0.1}))
    done = doctor(path)
    assert done.exit_code == 0  # it does not reach an optimizer that the Trainer is given as a class
    assert (
        "better: learning_rate: unless the optimizer comes by optimizer_cls_and_kwargs, the default is 5e-05"
        in done.output
    )
    assert (
        "better: warmup_ratio: the schedule warms up (warmup_ratio 0.1) and safeguard_warmup may be False"
        in done.output
    )


def test_the_trainers_deepspeed_file_and_optimizer_are_looked_at_too(tmp_path: Path) -> None:
    named, path = tmp_path / "ds.json", tmp_path / "args.json"
    named.write_text(json.dumps(changed(optimizer={"type": "prodgy"})))
    for given in (str(named), json.loads(named.read_text())):
        path.write_text(json.dumps({"output_dir": "out", "learning_rate": 1.0, "deepspeed": given}))
        done = doctor(path)
        assert done.exit_code == 1
        assert "did you mean Prodigy?" in done.output
    path.write_text(json.dumps({"output_dir": "out", "learning_rate": 1.0, "optim": "prodgy"}))
    done = doctor(path)
    assert done.exit_code == 1
    assert "optim: 'prodgy' is no optimizer of the Trainer; remove it, and give" in done.output
    assert "(dadapt_dist.Prodigy, {})" in done.output
    path.write_text(json.dumps({"output_dir": "out", "learning_rate": 1.0, "optim": "adamw_torch"}))
    assert doctor(path).exit_code == 0


def accelerate(**settings: Any) -> str:
    return yaml.safe_dump({"distributed_type": "DEEPSPEED", **settings})


def test_a_named_file_is_looked_for_beside_the_one_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "ds.json").write_text(json.dumps(with_params(lr=0.1)))
    path = tmp_path / "sub" / "a.yaml"
    path.write_text(accelerate(deepspeed_config={"deepspeed_config_file": "ds.json"}))
    done = doctor(path)
    assert done.exit_code == 1
    assert f"{tmp_path}/sub/ds.json (DeepSpeed)" in done.stdout
    assert re.search(f"lies beside this file, .* start the job in {tmp_path}/sub, or write the whole path", done.stdout)


@pytest.mark.parametrize(
    ("named", "said"),
    [
        (
            "nix.json",
            r"a.yaml names a file that does not exist \(deepspeed_config.deepspeed_config_file: \"nix.json\",",
        ),
        (
            "torn.json",
            r"torn.json is not well formed: it ends at line 1 in the middle of a value \(\S*a.yaml names it\)",
        ),
        ([1], r"a.yaml: deepspeed_config.deepspeed_config_file is \[1\], which cannot be the name of a file"),
        ("a.yaml", r"a.yaml names itself, by \S*a.yaml"),
    ],
)
def test_a_named_file_that_cannot_be_read_hides_nothing_and_is_traced_back(
    tmp_path: Path, named: Any, said: str
) -> None:
    (tmp_path / "torn.json").write_text("{")
    path = tmp_path / "a.yaml"
    path.write_text(accelerate(mixed_precison="bf16", deepspeed_config={"deepspeed_config_file": named}))
    done = doctor(path, tmp_path / "absent.json")
    assert done.exit_code == 2
    assert "wrong: mixed_precison: Accelerate refuses a file with" in done.stdout
    assert "did you mean mixed_precision?" in done.stdout
    verdict = done.stdout.splitlines()[-1]
    assert re.fullmatch(r"verdict: 1 wrong, (1 could be better, )?2 files could not be checked", verdict), verdict
    first, second = done.stderr.splitlines()
    assert re.search(said, first), first
    assert second == f"error: {tmp_path}/absent.json cannot be read: No such file or directory"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("distributed_type: FSPD", 'distributed_type: "FSPD" is none; did you mean FSDP?'),
        ("distributed_type: no", "distributed_type: false is none; write 'NO', in quotation marks"),
        ("distributed_type: FSDP\nmixed_precision: no", "mixed_precision: false is no precision; write 'no', in"),
        (
            "distributed_type: FSDP\nmixed_precision: bf17",
            'mixed_precision: "bf17" is no precision; it is one of no, fp16',
        ),
        ("distributed_type: DEEPSPEED\ndeepspeed_config: {zero_stage: 7}", "zero_stage: 7 is no stage of ZeRO"),
        ("distributed_type: DEEPSPEED\ndeepspeed_config: {zero_stge: 2}", "zero_stge: .* did you mean zero_stage?"),
        ("distributed_type: FSDP\nfsdp_config: {fsdp_versoin: 2}", "fsdp_versoin: .* did you mean fsdp_version?"),
        ("distributed_type: FSDP\nfp8_config: {}\nipex_config: {}", "ipex_config: .* know; remove it\n"),
        ("distributed_type: FSDP\nnull: 2", "null: Accelerate refuses a file with a setting that it does not know"),
    ],
)
def test_what_accelerate_does_not_know_or_refuses_is_named(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "a.yaml").write_text(text)
    done = doctor(tmp_path / "a.yaml")
    assert done.exit_code == 1
    assert re.search(said, done.stdout), done.stdout
    assert done.stdout.splitlines()[-1] == "verdict: 1 wrong"


def test_what_the_trainer_does_not_know_or_refuses_is_named(tmp_path: Path) -> None:
    path = tmp_path / "args.json"
    path.write_text(
        json.dumps({"output_dir": "x", "learning_rte": 1, "learning_rate": "x", "fp16": True, "bf16": True})
    )
    shown = doctor(path).stdout
    assert (
        "better: learning_rte: TrainingArguments has no such setting; remove it: learning_rate is there, too" in shown
    )
    assert 'wrong: learning_rate: "x" is no number; set it to 1.0' in shown
    assert "wrong: bf16: fp16 is on, too" in shown


def test_what_stands_twice_in_a_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("distributed_type: FSDP\nnum_processes: 1\nnum_processes: 2\n")
    (tmp_path / "ds.json").write_text(json.dumps(GOOD)[:-1] + ', "gradient_clipping": 2.0}')
    done = doctor(tmp_path / "a.yaml", tmp_path / "ds.json")
    assert "better: num_processes: given twice; only the last one counts; leave one out" in done.stdout
    assert "wrong: gradient_clipping: given twice; DeepSpeed refuses the file; leave one out" in done.stdout


def test_comments_that_deepspeed_reads_are_read(tmp_path: Path) -> None:
    path = tmp_path / "ds.json"
    path.write_text("# of mine\n" + json.dumps(with_params(lr=0.1))[:-1] + ",}")
    done = doctor(path)
    assert done.exit_code == 1
    assert "the learning rate is 0.1" in done.output
    path.write_text("# of mine\n" + json.dumps(GOOD))
    (tmp_path / "args.json").write_text(json.dumps({"output_dir": "x", "learning_rate": 1.0, "deepspeed": "ds.json"}))
    assert "Accelerate and the Trainer refuse it; write plain JSON" in doctor(tmp_path / "args.json").stdout


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("x.json", "{", "is not well formed"),
        ("x.yaml", "a: [", "is not well formed"),
        ("x.json", "[1]", "holds a list, not settings by name"),
        ("x.json", '{"a": 1}', "is no config that is known"),
        ("x.json", '{"train_batchsize": 1}', "Did 'train_batchsize' mean train_batch_size?"),
        ("x.json", "null", "holds nothing, not settings by name"),
        ("x.json", "", "x.json is empty"),
        ("x.yaml", "# a comment", "x.yaml holds no settings"),
        ("x.json", '{"train_batch_size": 8,\n "a": "b', "line 2, column 7: the text that begins here does not end"),
        ("x.json", '{"train_batch_size": 8,', "it ends at line 1 in the middle of a value"),
        ("x.json", '# DeepSpeed takes this\n{"train_batch_size": 8, "a": }', "line 2, column 30: found a punctuator"),
        ("x.yaml", "a:\n\t- b", "line 2, column 1: found character"),
        ("x.yaml", "? [1]\n: b", "line 1, column 3: found unhashable key"),
    ],
)
def test_a_file_that_cannot_be_judged_is_one_line_and_exit_code_2(
    tmp_path: Path, name: str, text: str, said: str
) -> None:
    (tmp_path / name).write_text(text)
    done = doctor(tmp_path / name)
    assert (done.exit_code, done.stderr.count("\n")) == (2, 1)
    assert done.stderr.startswith("error: ")
    assert said in done.stderr
    assert done.stdout == "verdict: 1 file could not be checked\n"
    assert doctor(tmp_path / "absent.json").exit_code == 2


def test_torchrun_shows_ranks_and_the_reduce_once() -> None:
    line = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
        "-m",
        "dadapt_dist",
        "doctor",
    ]
    done = subprocess.run(line, env=environment(), capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    assert "torchrun" in done.stdout
    assert "right on 2 ranks, on cpu, " in done.stdout
    assert done.stdout.count("launcher") == 1


def test_ranks_that_do_not_come_are_one_line_and_exit_code_2() -> None:
    env = environment(RANK="0", WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT="29617")
    line = [sys.executable, "-m", "dadapt_dist", "doctor", "--timeout", "2"]
    done = subprocess.run(line, env=env, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 2
    (error,) = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert "the 2 ranks did not meet at 127.0.0.1:29617 within 2 s" in error
