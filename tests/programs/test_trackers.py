"""d reaches TensorBoard, W&B, MLflow and Comet from the programs that log to them, and is in the files that these write."""

import csv
import importlib
import os
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import pytest
import torch
from torch.utils.data import DataLoader

import dadapt_dist as dd
from dadapt_dist import monitor
from tests.helpers import trainer_runs
from tests.helpers.models import loss_of
from tests.helpers.program_runs import NEARLY, OPTIONS, STEPS, data, needs, page_code, plain, rows, small, train
from tests.helpers.tracker_files import READERS

PACKAGES = {"tensorboard": "tensorboard", "wandb": "wandb", "mlflow": "mlflow", "comet": "comet_ml"}
EACH = [pytest.param(name, marks=needs(package), id=name) for name, package in PACKAGES.items()]


def offline() -> None:
    """Trackers write to the present folder, and call no server."""
    os.environ.update(
        WANDB_MODE="offline", WANDB_SILENT="true", WANDB_DIR=".", COMET_START_ONLINE="0", COMET_OFFLINE_DIRECTORY="comet",
        COMET_API_KEY="none", MLFLOW_ALLOW_FILE_STORE="true", MLFLOW_TRACKING_URI=f"file:{Path.cwd() / 'mlruns'}",
        TENSORBOARD_LOGGING_DIR=".",
    )  # fmt: skip


def end_wandb() -> None:
    """Write all to its file, and let the next run choose its folder anew."""
    import wandb

    wandb.finish()
    wandb.teardown()


def as_written(name: str, d: list[float]) -> Any:
    """TensorBoard's files hold float32."""
    return pytest.approx(d, **NEARLY) if name == "tensorboard" else d


# ---------------------------------------------------------------- a loop


def tracker(name: str) -> dict[str, Any]:
    """What the lines of docs/watching.md call each tracker; the others swallow what they are given."""
    names = {key: MagicMock() for key in ("wandb", "mlflow", "experiment", "writer")}
    if name == "tensorboard":
        from torch.utils.tensorboard import SummaryWriter

        return names | {"writer": SummaryWriter(".")}
    if name == "comet":
        import comet_ml

        return names | {"experiment": comet_ml.start()}
    module = importlib.import_module(name)
    if name == "wandb":
        module.init()
    return names | {name: module}


def loop(name: str) -> list[float]:
    """d after each step."""
    offline()
    model, seen = small(), []
    optimizer = dd.Prodigy(model.parameters(), **OPTIONS)
    names = tracker(name)
    for step in range(STEPS):
        train(model, optimizer, [step])
        page_code("watching.md", "add_scalar", **names, monitor=monitor, optimizer=optimizer, step=step)
        seen.append(optimizer.d)
    names["writer"].close()
    names["experiment"].end()
    names["mlflow"].end_run()
    if name == "wandb":
        end_wandb()
    return seen


def assert_read_back(name: str, folder: Path, seen: list[float]) -> None:
    """The tracker's files have the d of every step, and the last is that of a plain loop."""
    assert seen[-1] == plain()
    found = READERS[name](folder, "d")
    assert [found[step] for step in range(STEPS)] == as_written(name, seen)


@pytest.mark.parametrize("name", EACH)
def test_the_lines_of_the_page_give_each_tracker_d(apart: Any, tmp_path: Path, name: str) -> None:
    seen = apart(loop, name)
    assert_read_back(name, tmp_path, seen)


# ---------------------------------------------------------------- Accelerate


def accelerate(name: str) -> list[float]:
    """d after each step."""
    offline()
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=True, log_with=PACKAGES[name], project_dir=".")
    more = {"init_kwargs": {"comet_ml": {"online": False}}} if name == "comet" else {}
    accelerator.init_trackers("project", **more)
    model = small()
    model, optimizer = accelerator.prepare(model, dd.Prodigy(model.parameters(), **OPTIONS))
    seen = []
    for step in range(STEPS):
        optimizer.zero_grad()
        accelerator.backward(loss_of(model, *data(step)))
        optimizer.step()
        accelerator.log(monitor.record(optimizer), step=step)
        seen.append(dd.log_values(optimizer)["d"])
    accelerator.end_training()
    if name == "wandb":
        end_wandb()
    return seen


@pytest.mark.parametrize("name", EACH)
def test_accelerates_trackers_have_d(apart: Any, tmp_path: Path, name: str) -> None:
    seen = apart(accelerate, name)
    assert_read_back(name, tmp_path, seen)


# ---------------------------------------------------------------- the Trainer


def trainer(name: str) -> list[float]:
    """d of each record in the Trainer's own log."""
    offline()
    from transformers import Trainer, TrainingArguments

    from dadapt_dist.integrations.transformers import DAdaptCallback

    args = TrainingArguments(
        output_dir="out", max_steps=STEPS, logging_steps=1, per_device_train_batch_size=8, use_cpu=True, disable_tqdm=True,
        lr_scheduler_type="constant", learning_rate=1.0, save_strategy="no", report_to=[PACKAGES[name]],
    )  # fmt: skip
    made = Trainer(
        model=trainer_runs.llama(),
        args=args,
        train_dataset=trainer_runs.Sequences(),
        optimizer_cls_and_kwargs=(dd.Prodigy, OPTIONS),
        callbacks=[DAdaptCallback()],
    )
    made.train()
    if name == "comet":
        import comet_ml

        comet_ml.get_running_experiment().end()
    if name == "wandb":
        end_wandb()
    return [entry["d"] for entry in made.state.log_history if "loss" in entry]


@pytest.mark.parametrize("name", EACH)
def test_the_trainers_trackers_have_d(apart: Any, tmp_path: Path, name: str) -> None:
    seen = apart(trainer, name)
    assert seen[-1] > 10 * OPTIONS["d0"]
    written = {"tensorboard": "d", "wandb": "train/d", "mlflow": "d", "comet": "train/d"}[name]
    found = READERS[name](tmp_path, written)
    assert [found[step] for step in sorted(found)] == as_written(name, seen)


# ---------------------------------------------------------------- Lightning


def lightning_logger(name: str) -> Any:
    from lightning.pytorch import loggers

    if name == "tensorboard":
        return loggers.TensorBoardLogger(".")
    if name == "wandb":
        return loggers.WandbLogger(offline=True, save_dir=".")
    if name == "mlflow":
        return loggers.MLFlowLogger(tracking_uri=os.environ["MLFLOW_TRACKING_URI"])
    return loggers.CometLogger(offline_directory="comet")  # its online=False turns logging off altogether


def lightning(name: str) -> list[float]:
    """d before each step, from the second on: the one that the step takes."""
    offline()
    import lightning.pytorch as pl

    from dadapt_dist.integrations.lightning import DAdaptCallback

    seen: list[float] = []

    class Module(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = small()

        def training_step(self, both: Any, index: int) -> torch.Tensor:
            return loss_of(self.net, *both)

        def configure_optimizers(self) -> Any:
            return dd.Prodigy(self.net.parameters(), **OPTIONS)

        def on_train_batch_start(self, *_: Any) -> None:
            seen.append(dd.base_optimizer(self.trainer.optimizers[0]).d)

    logger = lightning_logger(name)
    made = pl.Trainer(
        accelerator="cpu", max_epochs=1, logger=logger, log_every_n_steps=1, callbacks=[DAdaptCallback()],
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    made.fit(Module(), DataLoader(rows(), batch_size=8))  # type: ignore[arg-type]
    if name == "comet":
        logger.experiment.end()
    if name == "wandb":
        end_wandb()
    return seen


@pytest.mark.parametrize("name", EACH)
def test_lightnings_loggers_have_d(apart: Any, tmp_path: Path, name: str) -> None:
    seen = apart(lightning, name)
    found = READERS[name](tmp_path, "d")
    assert [found[step] for step in sorted(found)] == pytest.approx(seen, **NEARLY)  # Lightning logs float32


# ---------------------------------------------------------------- DeepSpeed


def deepspeed(folder: str) -> list[float]:
    """d after each step."""
    os.chdir(folder)
    offline()
    import deepspeed as ds

    from tests.helpers.deepspeed_runs import quiet_deepspeed

    quiet_deepspeed()
    place = {"enabled": True, "output_path": ".", "job_name": "job"}
    config = {
        "train_batch_size": 8,
        "optimizer": {"type": "Prodigy", "params": OPTIONS},
        "zero_optimization": {"stage": 2},
        "gradient_clipping": 0.0,
        "tensorboard": place,
        "csv_monitor": place,
        "wandb": {"enabled": True, "project": "project"},
        "comet": {"enabled": True, "project": "project", "online": False, "mode": "create", "samples_log_interval": 1},
    }
    model = small()
    engine, *_ = ds.initialize(model=model, model_parameters=model.parameters(), config=config)
    seen = []
    for step in range(STEPS):
        engine.backward(loss_of(engine, *data(step)))
        engine.step()
        page_code("watching.md", "write_events", monitor=monitor, engine=engine)
        seen.append(dd.log_values(engine)["d"])
    import comet_ml

    comet_ml.get_running_experiment().end()
    end_wandb()
    engine.destroy()
    return seen


@needs("deepspeed", *PACKAGES.values())
def test_deepspeeds_monitors_have_d(pools: Any, tmp_path: Path) -> None:
    (seen,) = pools(1).run(deepspeed, str(tmp_path), timeout=200)
    assert seen[-1] == pytest.approx(plain(), **NEARLY)
    for name, written in {"tensorboard": "d", "wandb": "train/d", "comet": "train/d"}.items():
        found = READERS[name](tmp_path, written)
        assert [found[8 * step] for step in range(1, STEPS + 1)] == as_written(name, seen)
    (path,) = tmp_path.rglob("train_d.csv")
    _, *lines = csv.reader(path.read_text().splitlines())
    assert {int(step): float(value) for step, value in lines} == {8 * step: d for step, d in enumerate(seen, 1)}


# ---------------------------------------------------------------- torchtitan


STATS = ("max_active_gib", "max_active_pct", "max_reserved_gib", "max_reserved_pct", "num_alloc_retries", "num_ooms")


def torchtitan(folder: str) -> list[float]:
    """d after each step, by way of its metrics processor, as docs/programs.md has it."""
    os.chdir(folder)
    offline()
    from torchtitan.components import metrics as titan
    from torchtitan.distributed import ParallelDims

    classes = page_code("programs.md", "class Optimizers")
    memory = dict.fromkeys(STATS, 0)  # it reads the memory of a GPU
    titan.build_device_memory_monitor = lambda: MagicMock(
        device_name="CPU", **{"get_peak_stats.return_value": titan.DeviceMemStats(**memory)}
    )
    names = ("dp_replicate", "dp_shard", "cp", "tp", "pp", "ep")
    dims = ParallelDims(**dict.fromkeys(names, 1), world_size=1)
    metrics = (
        classes["Metrics"]
        .Config(enable_tensorboard=True, enable_wandb=True, log_freq=1)
        .build(parallel_dims=dims, dump_folder="out")
    )
    model, seen = small(), []
    optimizer = dd.Prodigy(model.parameters(), **OPTIONS)
    metrics.num_flops_per_token, metrics.optimizers = 1, optimizer
    for step in range(STEPS):
        metrics.data_loading_times.append(0.0)
        metrics.ntokens_since_last_log += 1
        optimizer.zero_grad()
        loss_of(model, *data(step)).backward()
        optimizer.step()
        metrics.log(step, 0.0, 0.0, 0.0, extra_metrics={"n_tokens_seen": step})
        seen.append(optimizer.d)
    metrics.close()
    end_wandb()
    return seen


@needs("torchtitan", "spmd_types", "torch_checkpointing", "tensorboard", "wandb")
def test_torchtitans_metrics_have_d(pools: Any, tmp_path: Path) -> None:
    (seen,) = pools(1).run(torchtitan, str(tmp_path), timeout=200)
    for name in ("tensorboard", "wandb"):
        assert_read_back(name, tmp_path, seen)
