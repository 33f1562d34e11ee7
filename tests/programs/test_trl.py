"""TRL's trainers, given the optimizer in each way that docs/trainer.md names: argument, attribute, `dadapt-dist run --optim`."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import dadapt_dist as dd
from tests.helpers import trl_runs
from tests.helpers.program_runs import needs
from tests.helpers.trl_runs import D0, STEPS

pytestmark = needs("trl", "datasets")
KINDS = ["sft", "dpo", "grpo"]
CHOICE = (dd.Prodigy, {"d0": D0})


def by_attribute(kind: str) -> dict[str, Any]:
    from dadapt_dist.integrations.transformers import DAdaptCallback

    trainer = trl_runs.trainer(kind, callbacks=[DAdaptCallback()])
    trainer.optimizer_cls_and_kwargs = CHOICE
    return trl_runs.found(trainer)


def by_argument(kind: str) -> dict[str, Any] | str:
    """What was found, or the error."""
    from dadapt_dist.integrations.transformers import DAdaptCallback

    try:
        trainer = trl_runs.trainer(kind, callbacks=[DAdaptCallback()], optimizer_cls_and_kwargs=CHOICE)
    except TypeError as error:
        return str(error)
    return trl_runs.found(trainer)


def by_switch(kind: str, folder: Path) -> dict[str, Any]:
    switch = ["-m", "dadapt_dist.run", "--optim", f"Prodigy:d0={D0}"]
    line = [sys.executable, *switch, trl_runs.__file__, kind, "found.json"]
    path = {"PYTHONPATH": ":".join(filter(None, sys.path)), "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(
        line, cwd=folder, env={**os.environ, **path}, capture_output=True, text=True, timeout=200, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, Any] = json.loads((folder / "found.json").read_text())
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_trl_trains_with_it_in_every_way_and_logs_its_d(apart: Any, tmp_path: Path, kind: str) -> None:
    first = apart(by_attribute, kind)
    assert first["class"] == "Prodigy"
    assert len(first["logged"]) == STEPS[kind]
    assert first["d"] == first["logged"][-1] > 3 * D0
    assert by_switch(kind, tmp_path) == first
    given = apart(by_argument, kind)
    assert given == first if kind == "sft" else "unexpected keyword argument 'optimizer_cls_and_kwargs'" in given
