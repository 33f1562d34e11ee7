"""Check the schedule that gradient norms ask for: against the sums written out, on logs as runs leave them, and in a run."""

import json
import logging
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from dadapt_dist import schedules
from dadapt_dist.monitor.refine import FEWEST, GRID, KNOTS, Norm, Refined, read_norms, refine
from dadapt_dist.tools.cli import app

STEPS = 200


def sgd() -> torch.optim.Optimizer:
    return torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)


def lrs(path: Path, total: int) -> list[float]:
    """The multiplier of each step, and that after the last."""
    optimizer = sgd()
    scheduler = schedules.from_file(optimizer, path, total)
    values = []
    for _ in range(total + 1):
        values.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return values


def written(path: Path, norms: dict[int, Any], key: str = "grad_norm_l1") -> Path:
    path.write_text("".join(json.dumps({"step": step, key: norm}) + "\n" for step, norm in norms.items()))
    return path


def command(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["refine-schedule", *map(str, arguments)])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.output


def written_out(norms: list[float], norm: Norm) -> list[float]:
    """Equation of the module, with two loops."""
    w = [1 / g if norm == "l1" else 1 / g**2 for g in norms]
    m = [w[t] * (math.fsum(w[t + 1 :]) + w[-1]) for t in range(len(w))]
    return [value / max(m) for value in m]


@pytest.mark.parametrize("norm", ["l1", "l2"])
@pytest.mark.parametrize("total", [1, 2, 150, 1000, 1234, 5001])
def test_constant_norms_give_linear_decay(norm: Norm, total: int, tmp_path: Path) -> None:
    refined = refine(dict.fromkeys(range(1, 301), 0.37), norm, total_steps=total)
    assert refined.linear_because is None
    assert len(refined.fractions) <= KNOTS + 1
    path = refined.save(tmp_path / "schedule.json")
    linear = [1 - k / total for k in range(total + 1)]
    assert max(abs(one - other) for one, other in zip(lrs(path, total), linear, strict=True)) < 1e-12


@pytest.mark.parametrize("norm", ["l1", "l2"])
def test_any_norms_give_what_the_sums_say(norm: Norm) -> None:
    norms = [2.0 + math.exp(-t / 10) + math.sin(t) ** 2 for t in range(STEPS)]
    refined = refine(dict(enumerate(norms, 1)), norm, smooth=0.0)
    expected = written_out(
        [*norms[2:3] * 2, *norms[2:-2], *norms[-3:-2] * 2], norm
    )  # a hundredth at each end is left out
    kept = [round(x * STEPS) for x in refined.fractions[:-1]]
    assert refined.multipliers[:-1] == pytest.approx([expected[k] for k in kept], abs=1e-12)
    assert refined.multipliers[-1] == 0


def test_the_median_repeats_the_start_and_reflects_the_end() -> None:
    norms = {step: float(value) for step, value in enumerate([9, 1, 2, 3, 4, 5, 6, 7, 8, 1, 2, 3], 1)}
    assert refine(norms, "l1", smooth=0.4).norms == [9, 3, 3, 3, 4, 5, 6, 6, 6, 3, 3, 2]


def test_norms_that_fall_at_the_start_give_a_warmup_and_rising_ones_a_rapid_end() -> None:
    falling = refine({s: 1 + 9 * math.exp(-s / 100) for s in range(1, 1001)}, "l2")
    assert falling.linear_because is None
    assert 0.1 < falling.peak < 0.5
    rising = refine({s: 1.0 + (s / 250) ** 4 for s in range(1, 1001)}, "l2")
    at = min(range(len(rising.fractions)), key=lambda i: abs(rising.fractions[i] - 0.75))
    assert rising.multipliers[at] < 0.05


def test_norms_that_collapse_give_linear_decay_and_say_so(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    collapse = {s: math.exp(-s / 60) for s in range(1, 1001)}
    with caplog.at_level(logging.WARNING):
        refined = refine(collapse, "l2")
    assert refined.linear_because is not None
    assert "as where gradients vanish" in caplog.text
    assert lrs(refined.save(tmp_path / "s.json"), 1000) == pytest.approx(
        [m(k) for k in range(1001) for m in [linear(1000, 0.05)]], abs=1e-12
    )


def test_the_warmup_stays_where_only_the_end_collapses(tmp_path: Path) -> None:
    norms = {s: (1 + 9 * math.exp(-s / 30)) * (1.0 if s < 850 else 0.1) for s in range(1, 1001)}
    refined = refine(norms, "l1")
    assert refined.linear_because is not None
    assert 0.02 < refined.peak < 0.5
    warm = refined.fractions[2]  # its last step is the first with 1
    assert lrs(refined.save(tmp_path / "s.json"), 1000) == pytest.approx([linear(1000, warm)(k) for k in range(1001)])


def linear(total: int, warmup: float) -> Any:
    """The multiplier of `linear_decay_with_warmup`."""
    return schedules.linear_decay_with_warmup(sgd(), total, warmup).lr_lambdas[0]


@pytest.mark.parametrize("every", [1, 7, 10])
def test_a_log_of_some_steps_and_another_length_give_the_same_shape(every: int, tmp_path: Path) -> None:
    norms = {s: 1 + 4 * math.exp(-s / 50) for s in range(1, 701)}
    whole = refine(norms, "l1", total_steps=3000)
    assert len(whole.norms) == GRID
    some = refine({s: g for s, g in norms.items() if s % every == 0}, "l1", total_steps=3000)
    values = [lrs(one.save(tmp_path / f"{i}.json"), 3000) for i, one in enumerate((whole, some))]
    assert max(abs(a - b) for a, b in zip(*values, strict=True)) < 0.03
    assert max(values[0]) == pytest.approx(1, abs=1e-3)
    assert min(values[0][:-1]) > 0


def test_a_log_is_read_as_runs_leave_it(tmp_path: Path) -> None:
    log = tmp_path / "m.jsonl"
    norms = {step: 1.0 + step for step in range(20)}  # from 0 on
    written(log, norms | {3: None, 4: 0.0})
    text = log.read_text().replace(f" {norms[7]}", " Infinity")
    log.write_text('{"loss": 3.0}\n' + text + '{"step": 5, "grad_norm_l1": 50.0}\n\n{"step": 20, "grad_no')
    found = read_norms(log, "l1")
    assert found == {s + 1: g for s, g in norms.items() if s not in (3, 4, 5, 7)} | {6: 50.0}


@pytest.mark.parametrize(
    ("lines", "norm", "words"),
    [
        (['{"step": 1, "loss": 2.0}'] * 20, "l1", "has 0 usable norms 'grad_norm_l1', and 10 are needed: train with grad_norms"),
        ([f'{{"step": {s}, "grad_norm": 1.0}}' for s in range(20)], "l1", "it has 'grad_norm', which --norm l2 takes"),
        ([f'{{"step": {s}, "grad_norm_l1": 1.0}}' for s in range(FEWEST - 1)], "l1", "has 9 usable norms"),
        (['{"step": 1, "grad_norm_l1": 1.0}', '{"step": 2, "gra', "{}"], "l1", "line 2: b'{\"step\": 2, \"gra' is no"),
        (["", '{"step": 1, "grad_norm_l1": "big"}'], "l1", "line 2: 'grad_norm_l1' is 'big', no number"),
        (['{"step": "first", "grad_norm": 1}'], "l2", "line 1: 'step' is 'first', no number"),
        ([], "l3", "--norm l3 must be l1"),
    ],
)  # fmt: skip
def test_a_log_that_does_not_serve_is_named_with_its_line(
    lines: list[str], norm: str, words: str, tmp_path: Path
) -> None:
    log, out = tmp_path / "metrics.jsonl", tmp_path / "schedule.json"
    log.write_text("".join(f"{line}\n" for line in lines))
    code, text = command(log, "--norm", norm, "--out", out)
    assert code == 2
    assert text.startswith("error: ")
    assert words in text
    assert norm == "l3" or str(log) in text
    assert len(text.splitlines()) == 1
    assert not out.exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--steps", "0"], "--steps 0 must be from 1"),
        (["--smooth", "1"], "--smooth 1.0 must be in [0, 1)"),
        (["--out", "thesis.json"], "thesis.json exists and is no schedule"),
    ],
)
def test_what_cannot_be_is_one_line_and_loses_nothing(
    options: list[str], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "thesis.json").write_text("[1]")
    code, text = command(written(tmp_path / "m.jsonl", dict.fromkeys(range(1, 30), 1.0)), *options)
    assert (code, len(text.splitlines())) == (2, 1)
    assert words in text
    assert (tmp_path / "thesis.json").read_text() == "[1]"


def test_the_command_writes_a_schedule_beside_its_picture(tmp_path: Path) -> None:
    log = written(tmp_path / "metrics.jsonl", {s: 1 + 9 / s for s in range(1, 101)})
    out = tmp_path / "schedule.json"
    code, text = command(log, "--steps", 500, "--out", out)
    assert code == 0, text
    assert "500 steps, from grad_norm_l1" in text
    assert (tmp_path / "schedule.png").read_bytes().startswith(b"\x89PNG")
    values = lrs(out, 500)
    assert max(values) == pytest.approx(1, abs=1e-3)
    assert values[-1] == 0
    assert command(log, "--out", out)[0] == 0  # in its place


def test_a_schedule_of_another_length_is_refused(tmp_path: Path) -> None:
    path = Refined(1000, [0.0, 1.0], [1.0, 0.0], []).save(tmp_path / "schedule.json")
    with pytest.raises(
        ValueError, match=r"schedule.json is a schedule for 1000 steps, and total_steps=500.*--steps 500"
    ):
        schedules.from_file(sgd(), path, 500)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"fractions": [0.0, 0.5]}, "ascend from 0 to 1"),
        ({"fractions": [0.0, 0.5, 0.5, 1.0]}, "ascend from 0 to 1"),
        ({"fractions": [0.0, "0.5", 1.0]}, "ascend from 0 to 1"),
        ({"fractions": None}, "ascend from 0 to 1"),
        ({"multipliers": [1.0, 0.0]}, "must be as many numbers"),
        ({"multipliers": [1.0, 2.0, 0.0]}, r"in \[0, 1\]"),
        ({"multipliers": [1.0, math.nan, 0.0]}, r"in \[0, 1\]"),
        ({"total_steps": 10.5}, "must be an integer"),
    ],
)
def test_what_is_no_schedule_is_named(change: dict[str, Any], words: str, tmp_path: Path) -> None:
    good = {"total_steps": 10, "fractions": [0.0, 0.5, 1.0], "multipliers": [1.0, 0.6, 0.0]}
    path = tmp_path / "s.json"
    path.write_text(json.dumps(good))
    assert lrs(path, 10)[5] == 0.6
    path.write_text(json.dumps(good | change))
    with pytest.raises(ValueError, match=f"s.json is no schedule: .*{words}"):
        schedules.from_file(sgd(), path, 10)


def test_a_torn_schedule_is_named_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "s.json"
    path.write_text('{"total_steps": 10,\n"fractions": [0.0,')
    with pytest.raises(ValueError, match=r"s.json is no well-formed JSON: .*line 2"):
        schedules.from_file(sgd(), path, 10)


def test_a_run_goes_on_with_its_schedule_after_a_checkpoint(tmp_path: Path) -> None:
    path = refine({s: 1 + 4 * math.exp(-s / 5) for s in range(1, 21)}, "l1").save(tmp_path / "s.json")
    whole, first = lrs(path, 20), sgd()
    scheduler = schedules.from_file(first, path, 20)
    for _ in range(7):
        first.step()
        scheduler.step()
    second = sgd()
    resumed = schedules.from_file(second, path, 20)
    resumed.load_state_dict(scheduler.state_dict())
    second.load_state_dict(first.state_dict())
    second.step()
    resumed.step()
    assert second.param_groups[0]["lr"] == whole[8]
