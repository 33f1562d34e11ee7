"""Programs with a training loop of their own: mmengine's Runner, Ray Train on two workers, litgpt's pretraining."""

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import dadapt_dist as dd
from tests.helpers.models import loss_of, part
from tests.helpers.program_runs import NEARLY, OPTIONS, STEPS, data, needs, plain, rows, small

ROOT = Path(__file__).parents[2]

# ---------------------------------------------------------------- mmengine


def mmengine() -> tuple[float, float]:
    """d, and as logged from its wrapper."""
    from mmengine.model import BaseModel
    from mmengine.registry import OPTIMIZERS
    from mmengine.runner import Runner

    class Net(BaseModel):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.net = small()

        def forward(self, x: torch.Tensor, y: torch.Tensor, mode: str = "tensor") -> dict[str, torch.Tensor]:
            return {"loss": ((self.net(x) - y) ** 2).mean()}

    OPTIMIZERS.register_module("Prodigy", module=dd.Prodigy)
    loader = {
        "dataset": rows(),
        "batch_size": 8,
        "sampler": {"type": "DefaultSampler", "shuffle": False},
        "collate_fn": {"type": "default_collate"},
    }
    runner = Runner(
        model=Net(),
        work_dir="mmengine-out",
        train_dataloader=loader,
        optim_wrapper={"type": "OptimWrapper", "optimizer": {"type": "Prodigy", "lr": 1.0, **OPTIONS}},
        train_cfg={"by_epoch": True, "max_epochs": 1},
    )
    runner.train()
    return float(dd.base_optimizer(runner.optim_wrapper).d), dd.log_values(runner.optim_wrapper)["d"]


@needs("mmengine")
def test_mmengines_runner_builds_it_from_its_registry(apart: Any) -> None:
    assert apart(mmengine) == (plain(), plain())


# ---------------------------------------------------------------- Ray Train


def ray_worker(config: dict[str, Any]) -> None:
    """What each worker runs; rank 0's d and that of rank 1 go to files."""
    import ray.train.torch
    from torch.distributed import get_rank, get_world_size

    torch.set_num_threads(1)
    model: nn.Module = ray.train.torch.prepare_model(small())
    optimizer = dd.Prodigy(model.parameters(), **OPTIONS)
    for step in range(STEPS):
        optimizer.zero_grad()
        loss_of(model, *(part(t, get_rank(), get_world_size()) for t in data(step))).backward()
        optimizer.step()
    found = [get_rank(), get_world_size(), dd.log_values(optimizer)["d"]]
    Path(config["folder"], f"rank-{get_rank()}.json").write_text(json.dumps(found))


def ray_train() -> None:
    os.environ["RAY_TRAIN_V2_ENABLED"] = "1"
    import ray
    from ray.train import RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    folder = str(Path.cwd())
    ray.init(
        num_cpus=3,
        include_dashboard=False,
        runtime_env={"env_vars": {"PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, sys.path)])}},
    )
    try:
        TorchTrainer(
            ray_worker,
            train_loop_config={"folder": folder},
            scaling_config=ScalingConfig(num_workers=2),
            run_config=RunConfig(storage_path=folder),
        ).fit()
    finally:
        ray.shutdown()


@needs("ray")
def test_two_workers_of_ray_train_find_the_d_of_one_process(apart: Any, tmp_path: Path) -> None:
    apart(ray_train)
    first, second = (json.loads((tmp_path / f"rank-{rank}.json").read_text()) for rank in range(2))
    assert (first[:2], second[:2]) == ([0, 2], [1, 2])
    assert first[2] == second[2] == pytest.approx(plain(), **NEARLY)


# ---------------------------------------------------------------- litgpt


LITGPT = """
model_name: tiny
model_config: {name: tiny, n_layer: 1, n_head: 2, n_embd: 16, block_size: 8, vocab_size: 32, padded_vocab_size: 32}
out_dir: out
precision: 32-true
devices: 1
logger_name: csv
data: tests.helpers.litgpt_data.Walks
train: {global_batch_size: 8, micro_batch_size: 8, max_tokens: 1024, lr_warmup_steps: 0, min_lr: 1.0, max_norm: 1.0}
eval: {interval: 1000, max_iters: 1, initial_validation: false, final_validation: false}
"""
LITGPT_BY_CLASS = """
optimizer:
  class_path: dadapt_dist.Prodigy
  init_args: {lr: 1.0, d0: 1e-4}
"""


def litgpt(config: str, *arguments: str) -> tuple[float, float]:
    """d and d0 in the checkpoint at the end of `litgpt pretrain`. The model is not compiled, which takes long."""
    os.environ["TORCHDYNAMO_DISABLE"] = "1"
    from litgpt.__main__ import main

    Path("litgpt.yaml").write_text(config)
    sys.argv = ["litgpt", "pretrain", "--config", "litgpt.yaml", *arguments]
    main()
    state = torch.load(Path("out", "final", "lit_model.pth"), weights_only=False)
    group = state["optimizer"]["param_groups"][0]
    return float(group["d"]), float(group["d0"])


@needs("litgpt", "jsonargparse")
def test_litgpts_command_line_trains_with_it_and_saves_d(apart: Any) -> None:
    d, d0 = apart(litgpt, LITGPT + LITGPT_BY_CLASS)
    assert d > 10 * d0 == 10 * 1e-4
    d, d0 = apart(litgpt, LITGPT, "--optimizer", "dadapt_dist.Prodigy")
    assert d > 10 * d0 == 10 * 1e-6
