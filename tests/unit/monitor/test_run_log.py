"""Logs are read as they grow, whatever happens to the file meanwhile."""

import math
import os
import sys
import time
import types
from pathlib import Path
from typing import Any

import pytest

from dadapt_dist.monitor import JsonlWriter
from dadapt_dist.monitor.columns import Series, span, speed
from dadapt_dist.monitor.find_runs import find_log, open_run, open_runs
from dadapt_dist.monitor.run_log import RunLog
from tests.helpers.logs import line, record, records, write


def steps(log: RunLog) -> list[float]:
    return list(log.columns.get("d").steps)


def test_a_log_is_read_as_it_grows(tmp_path: Path) -> None:
    log = open_run(write(tmp_path / "metrics.jsonl", records(3)))
    assert steps(log) == [1, 2, 3]
    assert not log.refresh()
    with log.path.open("a") as file:
        file.write(line(record(4, 300)) + '{"step": 5, "d"')
        file.flush()
        assert log.refresh()
        assert (steps(log), log.torn, log.faults) == ([1, 2, 3, 4], True, [])
        file.write(": 2.0}\n")
    assert log.refresh()
    assert (steps(log), log.torn, log.columns.get("d").last) == ([1, 2, 3, 4, 5], False, 2.0)


def test_a_torn_line_in_the_middle_is_named_and_left_out(tmp_path: Path) -> None:
    torn = (
        '{"step": 3, "lo' + line(record(4, 9)) + '\n\nnonsense\n[1]\n{"step": "x"}\n{"step": -1}\n' + line(record(9, 9))
    )
    log = open_run(write(tmp_path / "metrics.jsonl", records(2), after=torn))
    assert steps(log) == [1, 2, 9]
    assert [fault.split(", line ")[1].split(":")[0] for fault in log.faults] == ["3", "6", "7", "8", "9"]
    assert 'line 3: b\'{"step": 3' in log.faults[0]
    assert "no number from 0" in log.faults[-1]


def test_a_log_that_is_replaced_or_truncated_is_read_anew(tmp_path: Path) -> None:
    log = open_run(write(tmp_path / "metrics.jsonl", records(9)))
    with JsonlWriter(log.path, resume_step=4) as writer:  # a new file takes the place of the old
        log.refresh()
        assert steps(log) == [1, 2, 3, 4]
        writer.write(5, d=1.0)
    log.refresh()
    assert steps(log) == [1, 2, 3, 4, 5]
    with log.path.open("r+") as file:  # the same file, shorter, then longer than it was
        file.truncate()
        file.write(line(record(1, 9, d=7.0)))
    log.refresh()
    assert (steps(log), log.columns.get("d").last) == ([1], 7.0)
    os.truncate(log.path, 0)
    with log.path.open("a") as file:
        file.writelines(line(record(step, 9, d=8.0)) for step in range(1, 20))
    log.refresh()
    assert (len(steps(log)), log.columns.get("d").values[0]) == (19, 8.0)


def test_a_rotated_log_goes_on(tmp_path: Path) -> None:
    log = open_run(write(tmp_path / "metrics.jsonl", records(5)))
    log.path.rename(tmp_path / "metrics.jsonl.1")
    with pytest.raises(FileNotFoundError):
        log.refresh()
    write(log.path, [record(6, 9)])
    log.refresh()
    assert steps(log) == [1, 2, 3, 4, 5, 6]


def test_of_steps_that_come_again_the_later_count(tmp_path: Path) -> None:
    twice = [*records(6), *(record(step, 9, d=5.0) for step in (4, 5)), {"step": 5, "eval_loss": 1.0}, {"note": "end"}]
    log = open_run(write(tmp_path / "metrics.jsonl", twice))
    assert steps(log) == [1, 2, 3, 4, 5]
    assert log.columns.resumed == [4]
    assert list(log.columns.get("d").values)[-2:] == [5.0, 5.0]
    assert list(log.columns.get("eval_loss").steps) == [5]


def test_what_is_no_number_is_passed_over(tmp_path: Path) -> None:
    entry = {"step": 1, "d": None, "loss": 10**400, "name": "x", "flag": True, "list": [1]}
    log = open_run(write(tmp_path / "log.jsonl", [entry]))
    assert set(log.columns.series) == {"d", "loss"}
    assert math.isnan(log.columns.get("d").last)
    assert math.isnan(log.columns.get("loss").last)
    assert log.columns.parts("d") == {}


def test_estimates_and_groups_are_parts_of_one_name(tmp_path: Path) -> None:
    log = open_run(
        write(tmp_path / "log.jsonl", [{"step": 1, "d/text": 1.0, "d/image": 2.0, "dd": 3.0, "train_loss": 4.0}])
    )
    assert {part: one.last for part, one in log.columns.parts("d").items()} == {"image": 2.0, "text": 1.0}
    assert log.columns.loss.last == 4.0
    assert span([1.0, 2.0, math.nan]) == "1 to 2"
    assert (span([]), span([math.nan]), span([3.0])) == ("-", "not finite", "3")


def test_a_folder_means_its_log(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nix does not exist: name the log of a run"):
        find_log(tmp_path / "nix")
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(FileNotFoundError, match="loop is a link that leads to no file"):
        find_log(tmp_path / "loop")
    with pytest.raises(ValueError, match=r"holds no metrics.jsonl, no other .jsonl file and no event files"):
        find_log(tmp_path)
    write(tmp_path / "b.jsonl", [])
    assert find_log(tmp_path) == tmp_path / "b.jsonl"
    write(tmp_path / "a.jsonl", [])
    with pytest.raises(ValueError, match=r"holds 2 logs: name one of them \(a.jsonl, b.jsonl\)"):
        find_log(tmp_path)
    write(tmp_path / "metrics.jsonl", [])
    assert find_log(tmp_path) == tmp_path / "metrics.jsonl"
    write(tmp_path / "other" / "metrics.jsonl", [])
    names = [log.name for log in open_runs([tmp_path, tmp_path / "other", tmp_path / "a.jsonl", tmp_path / "a.jsonl"])]
    assert names == [tmp_path.name, "other", str(tmp_path / "a.jsonl"), str(tmp_path / "a.jsonl")]


def test_what_is_no_regular_file_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jsonl")
    with pytest.raises(ValueError, match="no regular file"):
        open_run(tmp_path / "pipe.jsonl")


def test_a_long_log_is_read_and_thinned_quickly(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(f'{{"step": {step}, "loss": {step % 7}.5, "d": 1e-3}}\n' for step in range(100_000)))
    began = time.process_time()
    log = open_run(path)
    places, values = log.columns.loss.thinned(1000)
    assert time.process_time() - began < 10
    assert len(log.columns.loss) == 100_000
    assert len(places) <= 1002
    assert (places[0], places[-1], min(values), max(values)) == (0, 99_999, 0.5, 6.5)


def test_thinning_keeps_a_spike_and_stands_what_is_not_finite() -> None:
    one = Series()
    for step in range(1000):
        one.add(step, 99.0 if step == 537 else math.nan if step % 3 == 0 else 1.0)
    places, values = one.thinned(20)
    assert 537 in places
    assert len(values) <= 24
    assert one.at(538) == 1.0
    assert math.isnan(one.at(-1))
    assert one.at(5000) != one.at(5000)  # the last value is NaN


def test_speed_is_that_of_the_last_records_since_the_clock_began_anew(tmp_path: Path) -> None:
    clock = [(1, 10.0), (2, 20.0), (3, 1.0), (5, 2.0), (9, 4.0)]
    log = open_run(write(tmp_path / "log.jsonl", [{"step": step, "seconds": seconds} for step, seconds in clock]))
    assert speed(log.columns) == 2.0
    assert math.isnan(speed(open_run(write(tmp_path / "b.jsonl", [{"step": 1, "seconds": 1.0}])).columns))


class Accumulator:
    """Stands for tensorboard's EventAccumulator."""

    def __init__(self, path: str, size_guidance: dict[str, int]) -> None:
        assert size_guidance == {"scalars": 0}
        self.path, self.loads = path, 0

    def Reload(self) -> None:
        self.loads += 1

    def Tags(self) -> dict[str, list[str]]:
        return {"scalars": ["train/loss", "d"]}

    def Scalars(self, tag: str) -> list[Any]:
        last = 3 if self.loads < 3 else 4
        of = 10.0 if tag == "d" else 1.0
        return [types.SimpleNamespace(step=i, value=of / i, wall_time=100.0 + i) for i in range(1, last)]


def test_event_files_are_read_where_tensorboard_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "events.out.tfevents.1").touch()
    place = "tensorboard.backend.event_processing.event_accumulator"
    for name in ("tensorboard", "tensorboard.backend", "tensorboard.backend.event_processing", place):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setattr(sys.modules[place], "EventAccumulator", Accumulator, raising=False)
    log = open_run(tmp_path)
    assert (log.columns.loss.last, log.columns.get("d").last, speed(log.columns)) == (0.5, 5.0, 1.0)
    assert not log.refresh()
    assert log.refresh()
    assert log.columns.last_step == 3


def test_without_tensorboard_the_error_names_the_cure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "events.out.tfevents.1").touch()
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with pytest.raises(ImportError, match="needs tensorboard: pip install tensorboard, or log with"):
        open_run(tmp_path)


def test_event_files_of_torchs_writer(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from torch.utils.tensorboard import SummaryWriter  # type: ignore[attr-defined]

    with SummaryWriter(str(tmp_path)) as writer:
        for step in range(1, 4):
            writer.add_scalar("train/loss", 1.0 / step, step)
            writer.add_scalar("train/d", 0.25 * step, step)
        writer.flush()
        log = open_run(tmp_path)
        assert list(log.columns.loss.steps) == [1, 2, 3]
        writer.add_scalar("train/d", 1.0, 4)
        writer.flush()
        assert log.refresh()
    assert list(log.columns.get("d").values) == [0.25, 0.5, 0.75, 1.0]
