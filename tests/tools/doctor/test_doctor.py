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
from dadapt_dist.tools.doctor import config_files, deepspeed_config, deepspeed_zero
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
    return [(f.where, f"{f.problem}; {f.cure}", f.is_error) for f in deepspeed_config.check(config)]


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
        (scheduler("OneCycle", cycle_max_lr=0.1), "scheduler.params.cycle_max_lr", "set it to 1.0"),
        (scheduler("LRRangeTest"), "scheduler.type", "remove the scheduler"),
        ({**changed(optimizer=None, scheduler=None), **OFFLOAD}, "zero_force_ds_cpu_optimizer", "set it to false"),
        ({**GOOD, **NVME}, "zero_optimization.offload_optimizer.buffer_count", "5 is fewer than the 6 .* set it to 6"),
        (changed(zero_optimization={"stage": 2, "zenflow": {"topk_ratio": 0.1}}), "zero_optimization.zenflow", "remove"),
        (
            changed(zero_optimization={"stage": 2, "elastic_checkpoint": True}),
            "zero_optimization.elastic_checkpoint",
            "d is in them",
        ),
        (changed(amp={"enabled": True}), "amp.enabled", "use bf16"),
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
        changed(zero_optimization={"stage": 2, "zenflow": {"enabled": False}, "elastic_checkpoint": "false"}),
        changed(zero_optimization={"stage": 2, "offload_optimizer": {"device": None}}, optimizer=None, scheduler=None),
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


def test_auto_is_left_to_whoever_fills_it_in() -> None:
    config = with_params(lr="auto")
    config["optimizer"]["params"]["weight_decay"] = "auto"
    assert said(config) == []


def test_the_numbers_of_tensors_are_those_of_the_methods() -> None:
    for name in class_names():
        optimizer = getattr(dd, name)([torch.nn.Parameter(torch.ones(3))])
        optimizer.param_groups[0]["params"][0].grad = torch.ones(3)
        optimizer.step()
        (state,) = optimizer.state.values()
        assert tensors_of(name) == 2 + len(state), name


# ---------------------------------------------------------------- every committed config


@pytest.mark.parametrize("path", sorted((ROOT / "configs").rglob("*.*")), ids=lambda path: path.name)
def test_nothing_is_wrong_with_the_committed_configs(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    for _, _, findings in config_files.check(path):
        assert findings == []


# ---------------------------------------------------------------- the command


def test_a_wrong_file_is_exit_code_1_and_a_right_one_0(tmp_path: Path) -> None:
    good, bad = tmp_path / "good.json", tmp_path / "bad.json"
    good.write_text(json.dumps(GOOD))
    bad.write_text(json.dumps(with_params(lr=0.1)))
    done = doctor(good)
    assert done.exit_code == 0, done.output
    assert f"{good} (DeepSpeed): nothing wrong" in done.output
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
    assert "better: warmup_ratio: the schedule warms up (warmup_ratio 0.1) and safeguard_warmup is False" in done.output


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


def test_comments_that_deepspeed_reads_are_read(tmp_path: Path) -> None:
    path = tmp_path / "ds.json"
    path.write_text("# of mine\n" + json.dumps(with_params(lr=0.1))[:-1] + ",}")
    done = doctor(path)
    assert done.exit_code == 1
    assert "the learning rate is 0.1" in done.output


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("x.json", "{", "is not well formed"),
        ("x.yaml", "a: [", "is not well formed"),
        ("x.json", "[1]", "holds a list, not settings by name"),
        ("x.json", '{"a": 1}', "is no config that is known"),
    ],
)
def test_a_file_that_cannot_be_judged_is_one_line_and_exit_code_2(
    tmp_path: Path, name: str, text: str, said: str
) -> None:
    (tmp_path / name).write_text(text)
    done = doctor(tmp_path / name)
    assert (done.exit_code, len(done.output.strip().splitlines())) == (2, 1)
    assert said in done.output
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
