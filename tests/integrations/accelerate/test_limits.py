"""Check that what cannot work under Accelerate raises, and that its log, configuration files and page are right."""

import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import dadapt_dist as dd
from dadapt_dist.engine.diagnostics.no_gradients import PATIENCE
from dadapt_dist.monitor.values import base_optimizer, log_values
from tests.helpers.accelerate_checks import BF16, EXACT, FILES, ROOT, check, deviations, shortened
from tests.helpers.accelerate_launch import CONFIGS, OPTIONS, Case, launched
from tests.helpers.accelerate_runs import STEPS, Runs, attempt, train
from tests.helpers.pool import WorkerPool

pytest.importorskip("accelerate")


# ---------------------------------------------------------------- what cannot work says so

FLAT = ("--mixed_precision", "no", "--fsdp_use_orig_params", "false")


def warnings_of(case: Case) -> tuple[Runs, list[str]]:
    """On a rank: the runs, and what the library logs."""
    import logging

    said: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("dadapt_dist")
    logger.addHandler(handler)
    try:
        return train(case), said
    finally:
        logger.removeHandler(handler)


def test_an_optimizer_that_fsdp1_left_behind_says_so(pool2: WorkerPool) -> None:
    """use_orig_params=False gives the model new parameters. AdamW trains as little, without a word."""
    for runs, said in pool2.run(warnings_of, Case(config="fsdp1", launch=FLAT)):
        assert runs.d == [OPTIONS["d0"]] * STEPS
        assert len(said) == 1
        assert f"no rank had a gradient other than 0 in {PATIENCE} steps" in said[0]
    adamw = pool2.run(train, Case(config="fsdp1", launch=FLAT, optimizer="AdamW"))
    assert torch.equal(adamw[0].first.weights[0], adamw[0].last.weights[0])
    late = Case(config="fsdp1", launch=FLAT, late=True)
    results = pool2.run(warnings_of, late)
    assert [said for _, said in results] == [[], []]
    assert max(deviations(late, [runs for runs, _ in results])) < EXACT


def test_sharded_state_of_fsdp1_does_not_resume_in_a_new_process_and_says_so(pool2: WorkerPool, tmp_path: Path) -> None:
    """Accelerate loads into what a fresh optimizer holds, which is nothing. AdamW goes on without its moments, silently."""
    case = Case(config="fsdp1", launch=("--mixed_precision", "no", "--fsdp_state_dict_type", "SHARDED_STATE_DICT"))
    for said in pool2.run(attempt, case, str(tmp_path / "ours")):
        assert "holds no buffers of any parameter" in said
    runs = pool2.run(train, replace(case, optimizer="AdamW"), str(tmp_path / "adamw"))[0]
    assert runs.again is not None
    assert runs.resumed is not None
    assert torch.equal(runs.again.weights[0], runs.last.weights[0])
    assert not torch.equal(runs.resumed.weights[0], runs.last.weights[0])


def test_offload_that_would_replace_the_optimizer_is_refused(pool2: WorkerPool, tmp_path: Path) -> None:
    """Unless the DeepSpeed file says that it shall not: then an object is kept, and trains as it should."""
    for said in pool2.run(attempt, Case(config="zero2", launch=("--offload_optimizer_device", "cpu"))):
        assert "replace this optimizer by DeepSpeed's CPU Adam" in said
    name = "zero2-bf16-offload-cpu"
    for said in pool2.run(attempt, Case(config="zero-json", launch=(), json=shortened(name, tmp_path, optimizer=None))):
        assert "zero_force_ds_cpu_optimizer" in said
    told = shortened(name, tmp_path, optimizer=None, scheduler=None, zero_force_ds_cpu_optimizer=False)
    case = Case(config="zero-json", launch=(), json=told)
    check(case, pool2.run(train, case), BF16)


# ---------------------------------------------------------------- the log line


class Wrapper:
    """As every wrapper known: Accelerate's, DeepSpeed's."""

    def __init__(self, optimizer: Any) -> None:
        self.optimizer = optimizer


def test_the_optimizer_is_found_behind_wrappers() -> None:
    groups = [{"params": [nn.Parameter(torch.ones(2))]}, {"params": [nn.Parameter(torch.ones(3))], "lr": 0.5}]
    optimizer = dd.Prodigy(groups, d0=1e-3)
    assert base_optimizer(Wrapper(Wrapper(optimizer))) is base_optimizer(optimizer) is optimizer
    rates = {"effective_lr/0": 1e-3, "effective_lr/1": 5e-4}
    of_adamw = {"adamw_lr/0": pytest.approx(10**0.5 * 1e-3), "adamw_lr/1": pytest.approx(10**0.5 * 5e-4)}
    assert log_values(Wrapper(optimizer)) == {"d": 1e-3, **rates, **of_adamw, "held_steps": 0.0}
    groups[1]["estimate"] = "b"
    assert log_values(dd.Prodigy(groups, d0=1e-3)).keys() == {"d/default", "d/b", *rates, *of_adamw, "held_steps"}


def test_another_optimizer_is_named_with_the_cure() -> None:
    adamw = torch.optim.AdamW([nn.Parameter(torch.ones(2))])
    cpu_adam, dummy = type("DeepSpeedCPUAdam", (), {})(), type("DummyOptim", (), {})()
    endless = Wrapper(None)
    endless.optimizer = endless
    for given, said in [
        (Wrapper(adamw), "Wrapper around AdamW is no learning-rate-free optimizer.*give an optimizer of dadapt_dist"),
        (Wrapper(cpu_adam), "Wrapper around DeepSpeedCPUAdam.*zero_force_ds_cpu_optimizer"),
        (dummy, "DummyOptim.*what accelerator.prepare returned"),
        ([adamw], "list.*one by one"),
        (None, "NoneType"),
        (endless, "Wrapper"),
    ]:
        with pytest.raises(TypeError, match=said):
            log_values(given)


# ---------------------------------------------------------------- the files


@pytest.mark.parametrize("name", FILES)
def test_a_file_is_one_of_accelerates_and_says_what_it_is_for(name: str) -> None:
    from accelerate.commands.config.config_args import load_config_from_file

    path = CONFIGS / f"{name}.yaml"
    config = load_config_from_file(str(path))  # unknown keys raise
    text = path.read_text().splitlines()
    assert text[0].startswith("# ")
    assert any("num_processes" in line for line in text if line.startswith("#"))
    assert config.num_processes == 8
    if name == "zero-json":  # Accelerate refuses what stands in both files
        assert config.mixed_precision is None
        assert (ROOT / config.deepspeed_config["deepspeed_config_file"]).exists()
    elif name.startswith("zero"):
        assert config.deepspeed_config["zero_stage"] == int(name[4:])
        assert config.deepspeed_config["gradient_clipping"] == 1.0
    if name == "fsdp1":
        assert config.fsdp_config["fsdp_use_orig_params"] is True


def script_of_the_page() -> str:
    page = (ROOT / "docs" / "accelerate.md").read_text()
    return str(re.findall(r"```python[^\n]*\n(.*?)```", page, re.DOTALL)[0])


def script_run(case: Case) -> tuple[float, int, type]:
    """On every rank: d, the steps, and what prepare made of the optimizer."""
    names: dict[str, Any] = {}
    with launched(case):
        torch.manual_seed(0)
        exec(script_of_the_page(), names)
        found = base_optimizer(names["optimizer"])
        if case.deepspeed:
            names["model"].destroy()
        names["accelerator"].free_memory()
    return found.d, found.step_size.steps, names["dtype"]


@pytest.mark.parametrize("name", ["fsdp1", "fsdp2", "zero1", "zero3"])
def test_the_script_of_the_page_runs_under_each_kind_of_file_as_it_stands(pool2: WorkerPool, name: str) -> None:
    """In bf16; two micro-steps are one step under all, as the script says."""
    (d, steps, dtype), other = pool2.run(script_run, Case(config=name, launch=()))
    assert other == (d, steps, dtype)
    assert (steps, dtype) == (60, torch.bfloat16 if name.startswith("zero") else torch.float32)
    assert d > 1e-3


def test_the_script_of_the_page_runs_under_the_launcher(tmp_path: Path) -> None:
    """In two processes that `accelerate launch` starts."""
    script = tmp_path / "train.py"
    script.write_text(script_of_the_page() + "print(f'd {optimizer.optimizer.d}\\n', end='', flush=True)\n")
    env = {**os.environ, "ACCELERATE_USE_CPU": "true", "PYTHONPATH": str(ROOT)}
    line = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(CONFIGS / "ddp.yaml")]
    done = subprocess.run(
        [*line, "--num_processes", "2", "--main_process_port", "0", str(script)],
        env=env, cwd=tmp_path, capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    ds = [float(d) for d in re.findall(r"^d (\S+)$", done.stdout, re.MULTILINE)]
    assert len(ds) == 2
    assert ds[0] == ds[1] > 1e-3
