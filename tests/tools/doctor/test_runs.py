"""`dadapt-dist doctor --run` says what a log shows, and has the doctor's exit codes."""

import math
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from dadapt_dist.tools.cli import app
from tests.helpers.logs import records, write


def doctor(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["doctor", *map(str, arguments)], env={"COLUMNS": "200"})


def test_a_good_run(tmp_path: Path) -> None:
    done = doctor("--run", write(tmp_path / "metrics.jsonl", records(300)))
    assert done.exit_code == 0, done.output
    assert done.stdout.splitlines()[1:] == ["  verdict: nothing wrong"]


def test_a_run_in_which_d_never_grew(tmp_path: Path) -> None:
    write(tmp_path / "metrics.jsonl", records(300, d=1e-6), after="torn\n")
    done = doctor("--run", tmp_path)
    assert done.exit_code == 1
    _, wrong, better, verdict = done.stdout.splitlines()
    assert wrong.startswith("  wrong: d is 1e-06 from step 1 to 300 and never grew; ")
    assert wrong.endswith("See docs/troubleshooting.md#d-stays-at-d0")
    assert "line 301: b'torn' is no JSON object" in better
    assert verdict == "  verdict: 1 wrong, 1 could be better"


def test_a_run_without_d_is_judged_by_the_rest(tmp_path: Path) -> None:
    lost = {"d": math.nan, "adamw_lr": None, "effective_lr": 0.25}
    done = doctor("--run", write(tmp_path / "metrics.jsonl", records(300, **lost)))
    assert done.exit_code == 0, done.output
    first, note, verdict = done.stdout.splitlines()
    assert first.endswith("learning rate from 0.25 to 0.25")
    assert note.startswith("  note: the method has no d: effective_lr is the learning rate")
    assert verdict == "  verdict: nothing wrong"


@pytest.mark.parametrize("lines", [[], [{"step": 1, "loss": 1.0}], None])
def test_a_log_that_says_nothing_is_one_line(tmp_path: Path, lines: list[dict[str, float]] | None) -> None:
    path = tmp_path / "metrics.jsonl" if lines is None else write(tmp_path / "metrics.jsonl", lines)
    good = write(tmp_path / "good.jsonl", records(300))
    done = doctor("--run", path, "--run", good)
    assert done.exit_code == 2
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert "verdict: nothing wrong" in done.stdout  # the other run has its say


def test_configs_and_runs_are_looked_at_together(tmp_path: Path) -> None:
    optimizer = '"optimizer": {"type": "Prodigy", "params": {"lr": 0.001}}'
    (tmp_path / "ds.json").write_text(f'{{"train_batch_size": 8, {optimizer}}}')
    done = doctor("--no-reduce", tmp_path / "ds.json", "--run", write(tmp_path / "metrics.jsonl", records(300)))
    assert done.exit_code == 1, done.output
    assert "verdict: nothing wrong" in done.stdout
    assert "ds.json" in done.stdout
