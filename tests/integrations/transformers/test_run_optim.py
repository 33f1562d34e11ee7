"""`dadapt-dist run --optim`: a Trainer whose script cannot name our optimizers trains with one, and logs d."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import dadapt_dist as dd
from dadapt_dist.integrations import trainer_optim
from tests.helpers.accelerate_launch import CONFIGS
from tests.helpers.trainer_runs import Case, llama, trainer, world

pytest.importorskip("transformers")
ROOT = Path(__file__).parents[3]

# As users write it: all settings are TrainingArguments of the command line, and no optimizer is named in it.
SCRIPT = """
import json, logging, os, sys
logging.basicConfig(level=logging.INFO)
assert "transformers" not in sys.modules
import torch
from transformers import HfArgumentParser, LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments

config = LlamaConfig(vocab_size=64, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2)
walks = torch.randint(0, 3, (64, 12)).cumsum(1) % 64
args, = HfArgumentParser(TrainingArguments).parse_args_into_dataclasses()
data = [{"input_ids": walk, "labels": walk} for walk in walks]
trainer = Trainer(model=LlamaForCausalLM(config), args=args, train_dataset=data)
trainer.train()
with open(f"rank-{os.environ['RANK']}.json", "w") as file:
    group = trainer.optimizer.param_groups[0]
    json.dump({"d": float(group["d"]), "d0": group["d0"], "history": trainer.state.log_history, "size": args.world_size}, file)
"""


def test_an_unchanged_script_trains_with_the_optimizer_of_the_switch_under_accelerate_launch(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text(SCRIPT)
    launcher = [
        *("-m", "accelerate.commands.launch", "--config_file"),
        str(CONFIGS / "ddp.yaml"),
        "--num_processes",
        "2",
    ]
    ours = ["--main_process_port", "0", "-m", "dadapt_dist.run", "--optim", "prodigy:d0=1e-4,safeguard_warmup=true"]
    script = ["train.py", "--use_cpu", "--max_steps", "4", "--report_to", "none", "--logging_steps", "1"]
    quiet = [
        "--output_dir",
        "out",
        "--save_strategy",
        "no",
        "--disable_tqdm",
        "true",
        "--optim",
        "sgd",
        "--bf16",
        "false",
    ]
    env = {**os.environ, "ACCELERATE_USE_CPU": "true", "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(
        [sys.executable, *launcher, *ours, *script, *quiet],
        env=env, cwd=tmp_path, capture_output=True, text=True, timeout=200, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    first, second = (json.loads((tmp_path / f"rank-{rank}.json").read_text()) for rank in range(2))
    assert first["d"] == second["d"] > first["d0"] == 1e-4
    assert first["size"] == 2
    assert [entry["d"] for entry in first["history"] if "loss" in entry][-1] == first["d"]
    said = "dadapt_dist.Prodigy stands in for the Trainer's optim=sgd; its options: {'d0': 0.0001, 'safeguard_warmup': True}"
    assert said in done.stderr


@pytest.fixture
def _chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    """The switch in this process, where the Trainer is imported already."""
    from transformers import trainer as module

    monkeypatch.setattr(module.Trainer, "get_optimizer_cls_and_kwargs", module.Trainer.get_optimizer_cls_and_kwargs)
    monkeypatch.setattr(module, "DEFAULT_CALLBACKS", list(module.DEFAULT_CALLBACKS))
    trainer_optim.install(trainer_optim.read_choice("dadapt-adam"))


@pytest.mark.usefixtures("_chosen")
def test_a_script_that_brings_its_own_optimizer_keeps_it(tmp_path: Path) -> None:
    from transformers import Trainer, TrainingArguments

    case = Case(kind="one", arguments={"max_steps": 1, "save_strategy": "no", "lr_scheduler_type": "constant"})
    with world(case):
        made, _ = trainer(case, str(tmp_path))  # with optimizer_cls_and_kwargs
        made.train()
        assert type(dd.base_optimizer(made.optimizer)) is dd.Prodigy
        args = TrainingArguments(output_dir=str(tmp_path), use_cpu=True, report_to=[], disable_tqdm=True, max_steps=1)
        data, model = made.train_dataset, llama(0)
        adamw = torch.optim.AdamW(model.parameters())
        own = Trainer(model=model, args=args, train_dataset=data, optimizers=(adamw, None))
        own.train()
        assert own.optimizer.optimizer is adamw
        assert "d" not in own.state.log_history[0]
        switched: Any = Trainer(model=llama(0), args=args, train_dataset=data)
        assert type(switched.create_optimizer()) is dd.DAdaptAdam
        assert [group["weight_decay"] for group in switched.optimizer.param_groups] == [args.weight_decay, 0.0]
