"""Check that a log is complete after a crash, flat enough for any tracker, and can be plotted."""

import builtins
import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import dadapt_dist
from dadapt_dist.monitor import JsonlWriter, read_jsonl, record
from dadapt_dist.monitor.plot import plot_run


def weights(n: int = 1) -> list[dict[str, Any]]:
    return [{"params": [torch.nn.Parameter(torch.ones(2))]} for _ in range(n)]


def write(path: Path, steps: range) -> None:
    with JsonlWriter(path) as log:
        for step in steps:
            log.write(step, loss=1.0 / step, d=1e-6 * step)


def test_a_record_is_on_disk_as_soon_as_it_is_written(tmp_path: Path) -> None:
    log = JsonlWriter(tmp_path / "new" / "log.jsonl")
    log.write(1, loss=2.0)
    assert read_jsonl(log.path) == [{"step": 1, "loss": 2.0}]
    log.close()
    log.close()


def test_a_process_that_ends_abruptly_leaves_every_record(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    script = (
        f"import os\nfrom dadapt_dist.monitor.jsonl import JsonlWriter\nlog = JsonlWriter({str(path)!r})\n"
        "for step in range(1, 101): log.write(step, loss=0.5)\nos._exit(1)"
    )
    subprocess.run([sys.executable, "-c", script], check=False, timeout=60)
    assert [r["step"] for r in read_jsonl(path)] == list(range(1, 101))


def test_resume_drops_a_torn_line_and_everything_after_the_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    write(path, range(1, 9))
    with path.open("a") as file:
        file.write('{"step": 9, "lo')
    with JsonlWriter(path, resume_step=5) as log:
        log.write(6, loss=0.1)
    assert [r["step"] for r in read_jsonl(path)] == [1, 2, 3, 4, 5, 6]
    assert read_jsonl(path)[-1]["loss"] == 0.1


def test_without_resume_the_log_starts_empty(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    write(path, range(1, 4))
    JsonlWriter(path).close()
    assert path.read_bytes() == b""
    JsonlWriter(tmp_path / "absent.jsonl", resume_step=3).close()


def test_other_ranks_write_nothing(tmp_path: Path) -> None:
    with JsonlWriter(tmp_path / "log.jsonl", rank=1) as log:
        log.write(1, loss=1.0)
    assert not list(tmp_path.iterdir())


def test_numbers_that_are_not_finite_become_null(tmp_path: Path) -> None:
    with JsonlWriter(tmp_path / "log.jsonl") as log:
        log.write(1, loss=math.nan, d=math.inf)
    assert json.loads(log.path.read_text()) == {"step": 1, "loss": None, "d": None}


def test_a_broken_line_in_the_middle_is_named(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text('{"step": 1}\nnonsense\n{"step": 2}\n')
    with pytest.raises(ValueError, match="line 2"):
        read_jsonl(path)


def test_record_is_flat_for_one_group() -> None:
    optimizer = dadapt_dist.Prodigy(weights(), lr=0.5, d0=1e-3)
    assert record(optimizer) == {"lr": 0.5, "d": 1e-3, "effective_lr": 5e-4, "adamw_lr": pytest.approx(10**0.5 * 5e-4)}


def test_adamw_lr_is_the_rate_of_a_step_of_adamw() -> None:
    """The first step of Adam is its learning rate for every element, and Prodigy's first is adamw_lr."""
    for options in ({}, {"use_bias_correction": True}, {"exact_bias_correction": True}, {"betas": (0.8, 0.99)}):
        w = torch.nn.Parameter(torch.ones(5))
        optimizer = dadapt_dist.Prodigy([w], d0=1e-3, lr=0.5, **options)
        rate = record(optimizer)["adamw_lr"]
        w.grad = torch.tensor([1.0, -2.0, 0.5, 3.0, -0.1])
        optimizer.step()
        assert torch.allclose((1 - w.detach()).abs(), torch.full((5,), rate), rtol=1e-3)


def test_a_method_that_is_unlike_adamw_has_no_adamw_lr() -> None:
    assert "adamw_lr" not in record(dadapt_dist.DAdaptSGD(weights()))


def test_record_names_groups_and_estimates() -> None:
    one, two = weights(2)
    optimizer = dadapt_dist.Prodigy([{**one, "estimate": "text"}, {**two, "estimate": "image", "lr": 0.5}], d0=1e-3)
    assert record(optimizer) == {
        "lr/0": 1.0,
        "lr/1": 0.5,
        "d/text": 1e-3,
        "d/image": 1e-3,
        "effective_lr/0": 1e-3,
        "effective_lr/1": 5e-4,
        "adamw_lr/0": pytest.approx(10**0.5 * 1e-3),
        "adamw_lr/1": pytest.approx(10**0.5 * 5e-4),
    }


def test_record_of_another_optimizer_has_no_d() -> None:
    assert record(torch.optim.SGD(weights(), lr=0.1)) == {"lr": 0.1, "effective_lr": 0.1}


def test_the_plot_is_a_picture(tmp_path: Path) -> None:
    write(tmp_path / "log.jsonl", range(1, 20))
    picture = plot_run(tmp_path / "log.jsonl", tmp_path / "plot.png", title="a run")
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_a_log_without_d_is_drawn_too(tmp_path: Path) -> None:
    with JsonlWriter(tmp_path / "log.jsonl") as log:
        log.write(1, loss=2.0)
        log.write(2, loss=math.nan)
    assert plot_run(log.path, tmp_path / "plot.svg").stat().st_size > 0


def test_an_empty_log_cannot_be_drawn(tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").touch()
    with pytest.raises(ValueError, match="holds no record with a step"):
        plot_run(tmp_path / "log.jsonl", tmp_path / "plot.png")


def test_without_matplotlib_the_error_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.startswith("matplotlib"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match=r"pip install dadapt-dist\[demo\]"):
        plot_run(tmp_path / "log.jsonl", tmp_path / "plot.png")
    assert os.listdir(tmp_path) == []
