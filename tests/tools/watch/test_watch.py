"""The live view shows the present state of runs, in a terminal and in a pipe."""

import io
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner, Result

from dadapt_dist.tools.cli import app
from dadapt_dist.tools.watch.command import Pace, run_watch
from dadapt_dist.tools.watch.sparkline import ASCII, sparkline
from tests.helpers.logs import line, record, records, write


def watch(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["watch", *map(str, arguments)], env={"COLUMNS": "100"})


def live(paths: list[Path], *steps: Callable[[], Any]) -> str:
    """What a terminal gets of a watch that is stopped by Ctrl-C after some steps, each taken while it waits."""
    file, left = io.StringIO(), list(steps)

    def wait(_: float) -> None:
        if not left:
            raise KeyboardInterrupt
        left.pop(0)()

    console = Console(file=file, force_terminal=True, width=100, height=40)
    assert run_watch(paths, console, wait=wait) == 0
    return file.getvalue()


def append(path: Path, text: str) -> Callable[[], Any]:
    def work() -> None:
        with path.open("a") as file:
            file.write(text)

    return work


def test_once_shows_the_last_values_and_exits(tmp_path: Path) -> None:
    write(tmp_path / "metrics.jsonl", records(100))
    shown = watch(tmp_path, "--once")
    assert shown.exit_code == 0, shown.output
    rows = {row[:21].strip(): row[21:].strip() for row in shown.stdout.splitlines()}
    assert rows["step"] == "100"
    assert rows["loss"] == "0.4727"
    assert (rows["d"], rows["d·lr"], rows["AdamW-equivalent lr"]) == ("0.001", "1e-05", "3e-05")
    assert (rows["held steps"], rows["steps/s"]) == ("0", "2")
    assert "2e-06 to 0.001" in shown.stdout
    assert "\x1b" not in shown.stdout


def test_a_pipe_is_told_once(tmp_path: Path) -> None:
    assert "step" in watch(write(tmp_path / "a.jsonl", records(5))).stdout


def test_several_runs_stand_side_by_side_with_what_seems_wrong(tmp_path: Path) -> None:
    write(tmp_path / "one" / "metrics.jsonl", records(300, d=None, **{"d/a": 1e-6, "d/b": 2e-6}))
    write(tmp_path / "two" / "metrics.jsonl", records(9, d=None, effective_lr=None), after="torn{\n")
    write(tmp_path / "none" / "metrics.jsonl", [])
    shown = watch(tmp_path / "one", tmp_path / "two", tmp_path / "none", "--once").stdout
    assert "1e-06 to 2e-06" in shown
    assert "one: wrong: d of a is 1e-06 from step 1 to 300 and never grew" in shown
    assert "docs/troubleshooting.md#d-stays-at-d0" in shown
    assert "line 10: b'torn{' is no JSON object" in shown
    assert "two: the log has no d: log **dadapt_dist.monitor.record(optimizer)" in shown
    assert "none: no record with a step yet" in shown


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"d": math.nan}, "the method has no d: effective_lr is the learning rate"),
        ({"d": None}, "the optimizer has no d, as AdamW has none: effective_lr is its learning rate"),
    ],
)
def test_without_d_the_learning_rate_is_shown(tmp_path: Path, changed: dict[str, Any], said: str) -> None:
    log = write(tmp_path / "log.jsonl", records(100, adamw_lr=None, effective_lr=0.25, **changed))
    shown = watch(log, "--once").stdout
    assert re.search(r"^learning rate +0\.25 *$", shown, re.MULTILINE)
    assert not re.search(r"^(d|d·lr|AdamW-equivalent lr) ", shown, re.MULTILINE)
    assert shown.splitlines()[-1].startswith(said)
    assert re.search(r"^rate .* 0\.25 to 0\.25 *$", shown, re.MULTILINE)


def test_where_each_weight_has_a_rate_of_its_own_the_loss_is_to_be_watched(tmp_path: Path) -> None:
    lost = {"d": math.nan, "effective_lr": math.nan, "adamw_lr": None}
    shown = watch(write(tmp_path / "log.jsonl", records(100, **lost)), "--once").stdout
    assert shown.splitlines()[-1].endswith("since each weight has its own: watch the loss")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["missing", "--once"], "missing does not exist: name the log of a run, or its folder"),
        (["{}", "--once"], "holds no metrics.jsonl"),
        (["{}", "--every", "0"], "--every 0.0 must be from 0.1 to 3600 seconds"),
    ],
)
def test_what_cannot_be_watched_is_one_line(tmp_path: Path, arguments: list[str], said: str) -> None:
    done = watch(*(argument.format(tmp_path) for argument in arguments))
    assert done.exit_code == 2
    assert done.stderr.startswith("error: ")
    assert said in done.stderr
    assert done.stderr.count("\n") == 1


def test_the_live_view_follows_a_log_that_grows_tears_and_rotates(tmp_path: Path) -> None:
    path = write(tmp_path / "metrics.jsonl", records(3))
    shown = live(
        [path],
        append(path, line(record(4, 300)) + '{"step": 5,'),
        append(path, ' "d": 0.25, "loss": 9.5}\n'),
        lambda: path.rename(tmp_path / "old"),
        lambda: write(path, [record(6, 300, d=0.125)]),
    )
    assert "0.25" in shown
    assert "9.5" in shown
    assert "cannot be read now" in shown
    assert "0.125" in shown
    assert "?1049h" not in shown  # no alternate screen: what was shown stays


def test_a_name_cannot_command_the_terminal(tmp_path: Path) -> None:
    write(tmp_path / "a\x1b[2J" / "metrics.jsonl", records(3, d=None, **{"d/\x1b[31m[bold]": 1.0}))
    write(tmp_path / "b" / "metrics.jsonl", records(3))
    shown = watch(tmp_path / "a\x1b[2J", tmp_path / "b", "--once").stdout
    assert "\x1b" not in shown
    assert "[bold]" in shown


def test_sparklines() -> None:
    assert sparkline([], 5) == ""
    assert sparkline([1.0], 5) == "▁"
    assert sparkline([float("nan"), 1.0, 2.0], 5) == " ▁█"
    assert sparkline([1e-6, 1e-5, 1e-4, 0.0], 9, logarithmic=True) == "▁▄█ "
    assert sparkline(range(100), 4, blocks=ASCII) == "_-*@"
    assert len(sparkline([1e308] * 1000, 30)) == 30
    assert sparkline([-1e308, 0.0, 1e308], 3) == "▁▅█"


def test_the_speed_of_a_run_is_seen_from_outside() -> None:
    pace = Pace()
    for step, now in [(1, 0.0), (1, 1.0), (3, 2.0)]:
        pace.note(step, now)
    assert pace.rate == 1.0
    pace.note(1, 3.0)  # begun anew
    assert pace.rate != pace.rate
