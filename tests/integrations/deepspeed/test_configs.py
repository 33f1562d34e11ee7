"""Check that every file in configs/deepspeed trains unchanged, and that d follows one process under DeepSpeed's schedules."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

import dadapt_dist as dd
from tests.helpers.models import Tiny, batch, loss_of, part
from tests.helpers.nvme import why_no_nvme
from tests.helpers.pool import WorkerPool

ROOT = Path(__file__).parents[3]
FILES = sorted((ROOT / "configs" / "deepspeed").glob("*.json"))
CONFIGS = {path.stem: json.loads(path.read_text()) for path in FILES}
OLDEST = Path(sys.prefix) / "deepspeed-0.14.4"
D0 = 1e-6
STEPS = 12


def engine_of(config: str | dict[str, Any], model: torch.nn.Module) -> Any:
    """A DeepSpeed engine on this rank; the optimizer comes from the config alone."""
    import deepspeed
    from deepspeed.accelerator import get_accelerator

    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    get_accelerator().is_fp16_supported = lambda: True  # slow on a CPU, not wrong
    return deepspeed.initialize(model=model, model_parameters=model.parameters(), config=config)[0]


def train(
    config: str | dict[str, Any], dtype: torch.dtype, scheduler: dict[str, int] | None = None
) -> tuple[list[float], list[float], int]:
    """d after each step and lr at each, and the steps that were skipped. scheduler: attributes set on the schedule."""
    engine = engine_of(config, Tiny(dtype=torch.float32))
    vars(engine.lr_scheduler or engine).update(scheduler or {})
    ds, lrs = [], []
    for step in range(STEPS):
        x, y = (part(t, dist.get_rank(), dist.get_world_size()) for t in batch(step, torch.float32))
        lrs.append(engine.basic_optimizer.param_groups[0]["lr"])
        engine.backward(((engine(x.to(dtype)) - y.to(dtype)) ** 2).mean())
        engine.step()
        ds.append(engine.basic_optimizer.d)
    skipped = engine.skipped_steps
    engine.destroy()
    return ds, lrs, skipped


def one_process(lrs: list[float], clip: float, **options: Any) -> list[float]:
    """d after each step of our Prodigy in one process, on the whole batch, at these lrs."""
    model, ds = Tiny(dtype=torch.float32), []
    optimizer = dd.Prodigy(model.parameters(), **options)
    for step, lr in enumerate(lrs):
        optimizer.param_groups[0]["lr"] = lr
        optimizer.zero_grad()
        loss_of(model, *batch(step, torch.float32)).backward()
        if clip:
            torch.nn.utils.clip_grad_norm_(model.parameters(), clip)
        optimizer.step()
        ds.append(optimizer.d)
    return ds


# ---------------------------------------------------------------- the files


@pytest.mark.parametrize("name", CONFIGS)
def test_a_file_trains_as_it_stands(pool2: WorkerPool, tmp_path: Path, name: str) -> None:
    path, config = str(ROOT / "configs" / "deepspeed" / f"{name}.json"), CONFIGS[name]
    if "nvme" in name:
        if reason := why_no_nvme():
            pytest.skip(reason)
        config["zero_optimization"]["offload_optimizer"]["nvme_path"] = str(tmp_path)
        path = str(tmp_path / "config.json")
        Path(path).write_text(json.dumps(config))
    dtype = torch.bfloat16 if "bf16" in config else torch.float16 if "fp16" in config else torch.float32
    # The schedule of the file is for a long run: the same one, short.
    scheduler = {"warmup_num_steps": 2, "total_num_steps": STEPS} if "scheduler" in config else None
    (ds, lrs, skipped), other = pool2.run(train, path, dtype, scheduler)
    assert other == (ds, lrs, skipped)
    assert ds[-1] > D0
    assert ds == sorted(ds)
    assert skipped < STEPS - 6
    if dtype == torch.float32:
        options = {k: v for k, v in config["optimizer"]["params"].items() if k != "lr"}
        assert ds == pytest.approx(one_process(lrs, config["gradient_clipping"], **options), rel=1e-5)


def test_every_stage_and_precision_has_a_file() -> None:
    found = {(c["zero_optimization"]["stage"], "bf16" in c, "fp16" in c) for c in CONFIGS.values()}
    every = {(stage, *kind) for stage in range(4) for kind in ((False, False), (True, False), (False, True))}
    assert every - found == {(0, False, True)}  # see zero1-fp16.json


@pytest.mark.parametrize("name", CONFIGS)
def test_a_file_says_what_matters_without_a_learning_rate(name: str) -> None:
    config = CONFIGS[name]
    params = config["optimizer"]["params"]
    assert params["lr"] == 1.0
    assert "gradient_clipping" in config
    scheduler = config.get("scheduler", {"type": None, "params": {}})
    assert (params.get("recipe") == "automatic") == ("scheduler" in config)
    assert scheduler["params"].get("warmup_max_lr") == (
        1.0 if scheduler["type"] in ("WarmupLR", "WarmupDecayLR") else None
    )
    assert not {"zero_allow_untested_optimizer", "zero_force_ds_cpu_optimizer"} & config.keys()
    notes = {key for key in config if key.startswith("_")}
    assert {
        key[1:] for key in notes - {"_about", "_batch"}
    } <= config.keys() - notes  # a note stands above what it is about
    assert {"_about", "_optimizer", "_gradient_clipping"} <= notes


PARSE = """
import sys, torch
import deepspeed
from deepspeed.runtime.config import DeepSpeedConfig
deepspeed.comm.comm.cdb = type("One", (), {"get_rank": lambda s, g=None: 0, "get_world_size": lambda s, g=None: 1,
                                          "is_initialized": lambda s: True})()
for path in sys.argv[1:]:
    config = DeepSpeedConfig(path)
    print(deepspeed.__version__, config.optimizer_name, config.zero_optimization_stage)
"""


@pytest.mark.skipif(not OLDEST.is_dir(), reason=f"no {OLDEST.name} beside the environment: make setup unpacks it")
def test_the_oldest_deepspeed_reads_every_file() -> None:
    line = [sys.executable, "-W", "ignore", "-c", PARSE, *map(str, FILES)]
    env = {**os.environ, "PYTHONPATH": str(OLDEST)}
    done = subprocess.run(line, env=env, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    found = [line.split() for line in done.stdout.splitlines() if line.startswith("0.")]
    assert found == [["0.14.4", "Prodigy", str(c["zero_optimization"]["stage"])] for c in CONFIGS.values()]


# ---------------------------------------------------------------- schedules

WARM = 4
LINEAR = {"warmup_num_steps": WARM, "warmup_type": "linear"}
RISE = [0, 0, 1 / 4, 2 / 4, 3 / 4]  # the first step runs before the schedule has begun: lr 0 twice
SCHEDULES: dict[str, tuple[dict[str, Any], list[float]]] = {
    "WarmupLR": ({**LINEAR, "warmup_max_lr": 1.0}, [*RISE, *[1] * 7]),
    "WarmupDecayLR": (
        {**LINEAR, "warmup_max_lr": 1.0, "total_num_steps": 12},
        [*RISE, *((12 - k) / 8 for k in range(4, 11))],
    ),
    "WarmupCosineLR": (
        {**LINEAR, "cos_min_ratio": 0.0, "total_num_steps": 12},
        [*RISE, *((1 + math.cos(math.pi * k / 8)) / 2 for k in range(1, 8))],
    ),
}


@pytest.mark.parametrize(("kind", "stage"), [("WarmupLR", 0), ("WarmupDecayLR", 3), ("WarmupCosineLR", 2)])
def test_d_follows_one_process_under_deepspeeds_schedules(pool2: WorkerPool, kind: str, stage: int) -> None:
    params, expected = SCHEDULES[kind]
    options = {"safeguard_warmup": True}
    config = {
        "train_micro_batch_size_per_gpu": 4,
        "gradient_clipping": 0.0,
        "optimizer": {"type": "Prodigy", "params": {"lr": 1.0, **options}},
        "scheduler": {"type": kind, "params": params},
        "zero_optimization": {"stage": stage},
    }
    (ds, lrs, _), other = pool2.run(train, config, torch.float32)
    assert other[:2] == (ds, lrs)
    assert lrs == pytest.approx(expected)
    assert ds[1] == D0 < ds[-1]
    assert ds == pytest.approx(one_process(expected, 0.0, **options), rel=1e-5)


def test_a_warm_up_that_does_not_say_its_peak_ends_at_a_thousandth(pool2: WorkerPool) -> None:
    """Why every file sets warmup_max_lr: the default belongs to Adam's learning rates."""
    config = {
        "train_micro_batch_size_per_gpu": 4,
        "gradient_clipping": 0.0,
        "optimizer": {"type": "Prodigy", "params": {"lr": 1.0}},
        "scheduler": {"type": "WarmupDecayLR", "params": {"total_num_steps": 100, "warmup_num_steps": 2}},
    }
    _, lrs, _ = pool2.run(train, config, torch.float32)[0]
    assert max(lrs) == pytest.approx(0.001)
