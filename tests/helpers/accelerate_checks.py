"""Compares a script of Accelerate with one process."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from .accelerate_launch import CONFIGS, Case
from .accelerate_runs import STEPS, Net, Runs
from .deepspeed_reference import clipped, deviation, deviation_of_d
from .layout_runs import of_oracle
from .models import gradients
from .oracles import ORACLES

ROOT = CONFIGS.parent.parent
FILES = sorted(path.stem for path in CONFIGS.glob("*.yaml"))
# About five times the largest deviation seen; docs/accelerate.md has the table. From d0 = 1e-6 the first sums are differences
# of weights that are nearly equal in float32.
EXACT, FLOAT32, SMALL_D0, FP16, BF16 = 1e-13, 1.3e-5, 6e-3, 5e-3, 0.12
RISE_AND_FALL = [1 / 4, 3 / 4, *((16 - k) / 12 for k in range(4, 16, 2))]  # linear_decay_with_warmup at 0, 2, 4, ...


def json_file(name: str) -> str:
    return str(ROOT / "configs" / "deepspeed" / f"{name}.json")


def shortened(name: str, folder: Path, **changes: Any) -> str:
    """A file of configs/deepspeed for a short run: a larger d0, a schedule of 8 steps. changes: None removes an entry."""
    config = json.loads(Path(json_file(name)).read_text())
    config["optimizer"]["params"] |= {"d0": 1e-3, "d_coef": 4.0}
    if "scheduler" in config:
        config["scheduler"]["params"] |= {"total_num_steps": STEPS + 2, "warmup_num_steps": 2}
    config = {key: value for key, value in (config | changes).items() if value is not None}
    path = folder / f"{name}-{len(list(folder.iterdir()))}.json"
    path.write_text(json.dumps(config))
    return str(path)


def options(case: Case) -> dict[str, Any]:
    return of_oracle(case.named or {name: value for name, value in case.options.items() if name != "nonfinite"})


def reference(case: Case, lrs: Sequence[float], skipped: Sequence[bool]) -> tuple[list[float], list[Tensor]]:
    """d after each step, and the parameters, of one process in float64 on the global batches. Skipped steps are left out."""
    model = Net(dtype=torch.float64)
    oracle, ds = ORACLES["prodigy"](list(model.parameters()), **options(case)), []
    for step, (lr, skip) in enumerate(zip(lrs, skipped, strict=True)):
        oracle.set_lr(lr)
        if not skip:
            grads = [g for g in gradients(model, oracle.params, step) if g is not None]
            oracle.step(clipped(grads, 1.0 if case.deepspeed else 0.0))
        ds.append(oracle.d)
    return ds, oracle.params


def deviations(case: Case, runs: Sequence[Runs], skipped: Sequence[bool] = (False,) * STEPS) -> tuple[float, float]:
    """Of d and of the parameters from one process; d is equal bit for bit on all ranks."""
    assert all([d.hex() for d in one.d] == [d.hex() for d in runs[0].d] for one in runs), case
    ds, params = reference(case, runs[0].lr, skipped)
    assert ds[-1] > 10 * ds[0], "d never moved, the comparison would be empty"
    return deviation_of_d(runs[0].d, ds), max(deviation(one.last.weights, params) for one in runs)


def check(case: Case, runs: Sequence[Runs], bound: float, lrs: Sequence[float] = RISE_AND_FALL) -> None:
    assert max(deviations(case, runs)) < bound, (case, deviations(case, runs))
    assert runs[0].lr == pytest.approx(lrs)
    assert not any(runs[0].skipped)
