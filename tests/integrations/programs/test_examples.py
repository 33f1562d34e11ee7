"""The scripts in examples/ and the notebook run as they stand, and learn: the loss falls by a known factor, and d has left d0."""

import json
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from dadapt_dist.monitor import read_jsonl

EXAMPLES = Path(__file__).parents[3] / "examples"


def test_the_diffusion_example_learns_with_a_d_for_the_text_encoder_and_one_for_the_unet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(EXAMPLES / "diffusion.py"), run_name="__main__")
    first, *_, last = read_jsonl("diffusion-out/metrics.jsonl")
    assert last["loss"] < first["loss"] / 15
    assert 1e-4 < last["d/text_encoder"] != last["d/unet"] > 1e-4


NUMBER = re.compile(r"\d+\.\d+(?:e[-+]\d+)?")


def test_the_notebook_learns_and_shows_the_lines_that_it_has_saved(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MPLBACKEND", "agg")
    monkeypatch.setattr("matplotlib.pyplot.show", lambda: None)
    cells = [
        cell for cell in json.loads((EXAMPLES / "first_run.ipynb").read_text())["cells"] if cell["cell_type"] == "code"
    ]
    namespace: dict[str, Any] = {}
    shown = []
    for cell in cells:
        exec(compile("".join(cell["source"]), "first_run.ipynb", "exec"), namespace)
        shown.append(capsys.readouterr().out)
    saved = ["".join("".join(output.get("text", "")) for output in cell["outputs"]) for cell in cells]
    assert [NUMBER.sub("#", text) for text in shown] == [NUMBER.sub("#", text) for text in saved]
    assert [name for cell in cells for output in cell["outputs"] for name in output.get("data", ())].count(
        "image/png"
    ) == 1
    ours = namespace["ours"]
    assert ours[-1]["loss"] < ours[0]["loss"] / 50
    assert ours[-1]["d"] > 1000 * ours[0]["d"]


# ---------------------------------------------------------------- on two ranks


def torchrun(folder: Path, script: str, *arguments: str) -> str:
    """Standard error of an example on two ranks."""
    line = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(EXAMPLES / script), *arguments]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(EXAMPLES.parent)}
    done = subprocess.run(
        [sys.executable, *line], cwd=folder, env=environment, capture_output=True, text=True, timeout=200, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stderr


@pytest.mark.matrix
def test_the_fsdp2_example_learns_and_goes_on_from_its_checkpoint_with_d_where_it_was(tmp_path: Path) -> None:
    words = ("--text", str(EXAMPLES.parent / "LICENSE"), "--folder", "out", "--steps")
    assert "Warning" not in torchrun(tmp_path, "fsdp2_pretrain.py", *words, "60")
    before = read_jsonl(tmp_path / "out" / "metrics.jsonl")
    assert before[-1]["loss"] < before[0]["loss"] / 2
    assert before[-1]["d"] > 100 * before[0]["d"]
    torchrun(tmp_path, "fsdp2_pretrain.py", *words, "61")
    after = read_jsonl(tmp_path / "out" / "metrics.jsonl")[len(before) :]
    assert [record["step"] for record in after] == [61]
    assert after[0]["d"] >= before[-1]["d"]
    assert after[0]["loss"] < before[0]["loss"] / 2


@pytest.mark.matrix
def test_the_deepspeed_example_learns(tmp_path: Path) -> None:
    pytest.importorskip("deepspeed")
    torchrun(tmp_path, "deepspeed_train.py")
    first, *_, last = read_jsonl(tmp_path / "deepspeed-out" / "metrics.jsonl")
    assert last["loss"] < first["loss"] / 10
    assert last["d"] > 100 * first["d"]
    assert (tmp_path / "deepspeed-out" / "latest").exists()
