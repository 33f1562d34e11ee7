"""Check that a log is complete after a crash, flat enough for any tracker, and can be plotted."""

import builtins
import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import dadapt_dist
from dadapt_dist.engine import held_steps
from dadapt_dist.engine.diagnostics.nonfinite import HeldReport
from dadapt_dist.monitor import JsonlWriter, names, read_jsonl, record
from dadapt_dist.monitor.plot import plot_run, plot_runs
from tests.helpers.logs import records
from tests.helpers.logs import write as write_run


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


@pytest.mark.slow
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
    assert record(optimizer) == {
        "lr": 0.5,
        "d": 1e-3,
        "effective_lr": 5e-4,
        "adamw_lr": pytest.approx(10**0.5 * 5e-4),
        "held_steps": 0.0,
    }


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
        "held_steps": 0.0,
    }


def test_record_of_another_optimizer_has_no_d() -> None:
    assert record(torch.optim.SGD(weights(), lr=0.1)) == {"lr": 0.1, "effective_lr": 0.1}


def test_what_is_logged_is_one_thing_under_one_set_of_names() -> None:
    """record has lr beside what log_values has; every name stands in names.py, which all readers of logs use."""
    given = weights()
    optimizer = dadapt_dist.Prodigy(given, grad_norms=True)
    for gradient in (1.0, math.nan, 1.0):
        given[0]["params"][0].grad = torch.full((2,), gradient)
        optimizer.step()
    numbers = dadapt_dist.log_values(optimizer)
    assert record(optimizer) == {"lr": 1.0, **numbers}
    assert set(numbers) == {"d", "effective_lr", "adamw_lr", "held_steps", "grad_norm", "grad_norm_l1"}
    assert numbers["held_steps"] == optimizer.step_size.held_steps == 1.0
    assert set(record(optimizer)) < set(names.QUANTITIES)
    assert set(names.HELD_BECAUSE) == {held_steps.HELD, held_steps.APART}


def test_held_steps_have_a_reason_where_ranks_can_differ() -> None:
    """Of three held steps one was held because the ranks differed; marks that only tell of gradients count for nothing."""
    report, held = HeldReport(), torch.zeros(2, dtype=torch.float64)
    for rises, differs in [(1, False), (1, True), (0, True), (1, False)]:
        held += rises
        report.note(held, torch.tensor([differs, False]))
    assert report.apart == 1.0
    diagnostics, layout = SimpleNamespace(held=report), SimpleNamespace(world_size=2)
    step_size = SimpleNamespace(held_steps=3, _diagnostics=diagnostics, _layout=layout)
    assert held_steps.counts(step_size) == {"held_steps": 3.0, "held_apart": 1.0}
    layout.world_size = 1
    assert held_steps.counts(step_size) == {"held_steps": 3.0}


def test_record_finds_the_optimizer_in_a_wrapper() -> None:
    optimizer = dadapt_dist.Prodigy(weights())
    assert record(SimpleNamespace(optimizer=optimizer)) == record(optimizer)


def test_the_plot_is_a_picture(tmp_path: Path) -> None:
    write(tmp_path / "log.jsonl", range(1, 20))
    picture = plot_run(tmp_path / "log.jsonl", tmp_path / "plot.png", title="a run")
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_a_log_without_d_is_drawn_too(tmp_path: Path) -> None:
    with JsonlWriter(tmp_path / "log.jsonl") as log:
        log.write(1, loss=2.0)
        log.write(2, loss=math.nan)
    assert plot_run(log.path, tmp_path / "plot.svg").stat().st_size > 0


def test_runs_share_a_picture_with_labels_and_units(tmp_path: Path) -> None:
    logs = [write_run(tmp_path / name / "metrics.jsonl", records(40)) for name in ("first", "_second $x", "adamw")]
    only_loss = [{"step": r["step"], "loss": r["loss"], "effective_lr": 1e-3} for r in records(40)]
    write_run(logs[2], only_loss)
    picture = plot_runs([log.parent for log in logs], tmp_path / "runs.svg").read_text()
    said = re.findall(r"<!-- (.+?) -->", picture)
    for text in ("first", "adamw", "loss (as logged)", "d (units of the weights)", "step (optimizer steps)"):
        assert any(text in line for line in said), text
    assert any("_second" in line and "x" in line for line in said)
    assert any("AdamW-equivalent lr" in line for line in said)


@pytest.mark.parametrize("entry", [{"lr": 1.0}, {"loss": None, "d": None}])
def test_a_log_without_loss_and_d_is_refused(tmp_path: Path, entry: dict[str, Any]) -> None:
    write_run(tmp_path / "log.jsonl", [{"step": 1, **entry}])
    with pytest.raises(ValueError, match=r"log.jsonl has neither a loss nor a d nor a learning rate that .*: log "):
        plot_run(tmp_path / "log.jsonl", tmp_path / "plot.png")
    assert os.listdir(tmp_path) == ["log.jsonl"]


def test_a_faulty_line_is_named_and_the_rest_drawn(tmp_path: Path, library_log: pytest.LogCaptureFixture) -> None:
    write_run(tmp_path / "log.jsonl", records(9), after='{"step": 10, "lo{"step": 11}\n')
    plot_run(tmp_path / "log.jsonl", tmp_path / "plot.svg")
    assert [line.split(":")[0][-7:] for line in library_log.messages] == ["line 10"]


def test_of_many_faulty_lines_the_first_are_named(tmp_path: Path, library_log: pytest.LogCaptureFixture) -> None:
    write_run(tmp_path / "log.jsonl", records(9), after="nonsense\n" * 50)
    plot_run(tmp_path / "log.jsonl", tmp_path / "plot.svg")
    assert len(library_log.messages) == 4
    assert library_log.messages[-1] == f"{tmp_path}/log.jsonl has 47 more such lines"


@pytest.mark.slow
def test_reading_and_drawing_a_log_needs_no_torch(tmp_path: Path) -> None:
    script = (
        "import sys, dadapt_dist_cli\nfrom dadapt_dist.monitor import read_jsonl\n"
        "from dadapt_dist.monitor import diagnosis, find_runs, plot\nassert 'torch' not in sys.modules\n"
        "from dadapt_dist import monitor\nassert callable(monitor.record)"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)


def test_an_empty_log_cannot_be_drawn(tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").touch()
    with pytest.raises(ValueError, match="holds no record with a step"):
        plot_run(tmp_path / "log.jsonl", tmp_path / "plot.png")


def test_the_plot_of_a_first_record_under_warm_up_warns_of_nothing(tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").write_text('{"step": 1, "loss": 3.0, "d": 1e-6, "effective_lr": 0.0}\n')
    assert plot_run(tmp_path / "log.jsonl", tmp_path / "plot.svg").stat().st_size > 0


def test_a_picture_without_an_ending_is_named_as_it_is_written(tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").write_text('{"step": 1, "loss": 3.0, "d": 1e-6}\n')
    assert plot_run(tmp_path / "log.jsonl", tmp_path / "plot") == tmp_path / "plot.png"
    assert (tmp_path / "plot.png").stat().st_size > 0
    with pytest.raises(ValueError, match="is a folder: name a file, such as"):
        plot_run(tmp_path / "log.jsonl", tmp_path)


def test_without_matplotlib_the_error_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.startswith("matplotlib"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match=r"pip install 'dadapt-dist\[cli\]'"):
        plot_run(tmp_path / "log.jsonl", tmp_path / "plot.png")
    assert os.listdir(tmp_path) == []
