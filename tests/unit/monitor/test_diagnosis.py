"""What went wrong in a run is named from its log, with a section of the documentation that exists."""

import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch

import dadapt_dist as dd
from dadapt_dist.monitor import JsonlWriter, diagnosis, record
from dadapt_dist.monitor.diagnosis import diagnose, summary, verdict
from dadapt_dist.monitor.find_runs import open_run
from dadapt_dist.monitor.without_d import instead_of_d
from tests.helpers.logs import records, write

ROOT = Path(__file__).parents[3]
STEPS = 300


def found(tmp_path: Path, steps: int = STEPS, **changed: Any) -> list[tuple[str, bool]]:
    run = open_run(write(tmp_path / "metrics.jsonl", records(steps, **changed)))
    return [(symptom.anchor, symptom.is_error) for symptom in diagnose(run)]


def test_a_good_run_has_no_symptom(tmp_path: Path) -> None:
    assert found(tmp_path) == []
    run = open_run(tmp_path)
    assert verdict([], run) == "verdict: nothing wrong"
    assert summary(run) == "up to step 300, loss 3.103 to 0.4727, d from 1.259e-06 to 0.001"


@pytest.mark.parametrize(
    ("changed", "anchor", "is_error"),
    [
        ({"d": 1e-6}, "d-stays-at-d0", True),
        ({"d": None, "d/a": 1e-6, "d/b": lambda step: 1e-6 * min(step, 30)}, "d-stays-at-d0", True),
        ({"lr": 1e-3}, "lr-is-not-10", True),
        ({"d": 2.0}, "d0-is-too-large", True),
        ({"d": lambda step: 1e-6 * 1.04**step}, "d-grows-late", False),
        ({"d": lambda step: 1e-6 if step < 200 else 1e-3}, "d-grows-late", False),
        ({"loss": lambda step: math.nan if step > 250 else 1.0}, "every-step-is-held", True),
        ({"loss": lambda step: 1 / step if step < 150 else step / 100}, "d-explodes-or-the-loss-diverges", True),
        ({"held_steps": lambda step: float(step > 20)}, "every-step-is-held", False),
        ({"held_steps": lambda step: float(max(step - 200, 0))}, "every-step-is-held", True),
        ({"held_steps": 3.0, "held_apart": 2.0}, "ranks-differ", True),
        ({"effective_lr": lambda step: 0.0 if step > 200 else 1e-3}, "lr-is-0", True),
        ({"effective_lr": 0.0}, "lr-is-0", True),
    ],
)  # fmt: skip
def test_a_symptom_is_named(tmp_path: Path, changed: dict[str, Any], anchor: str, is_error: bool) -> None:
    assert (anchor, is_error) in found(tmp_path, **changed)


def test_what_only_a_finished_run_shows_is_kept_back_before(tmp_path: Path) -> None:
    run = open_run(write(tmp_path / "metrics.jsonl", records(100, d=lambda step: 1e-6 * 1.1**step)))
    assert diagnose(run, is_over=False) == []
    assert diagnose(run)[0].problem.startswith("d still grows at the end: ")


def test_few_records_say_little(tmp_path: Path) -> None:
    assert found(tmp_path, steps=3) == [("total_steps-is-too-short", False)]


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ([], "no record with a step"),
        ([{"step": 1, "loss": 1.0}], "nothing of an optimizer, only loss: log"),
        ([{"step": 1, "lr": 1.0}], "nothing of an optimizer, only lr: log"),
    ],
)
def test_a_log_without_an_optimizer_is_refused_with_the_cure(
    tmp_path: Path, lines: list[dict[str, Any]], said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        diagnose(open_run(write(tmp_path / "metrics.jsonl", lines)))


def test_every_anchor_is_a_section_of_the_page() -> None:
    headings = re.findall(r"^#+ (.+)$", (ROOT / diagnosis.PAGE).read_text(encoding="utf-8"), re.MULTILINE)
    sections = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
    source = Path(diagnosis.__file__).read_text(encoding="utf-8")
    named = set(re.findall(r'"([a-z0-9_]+(?:-[a-z0-9_]+)+)"', source))
    assert len(named) >= 7
    assert named <= sections


def test_a_verdict_counts_faulty_lines_too(tmp_path: Path) -> None:
    run = open_run(write(tmp_path / "metrics.jsonl", records(STEPS, d=1e-6), after="nonsense\n"))
    assert verdict(diagnose(run), run) == "verdict: 1 wrong, 1 could be better"


def test_a_d_that_explodes_is_no_reason_to_train_longer(tmp_path: Path) -> None:
    ruined = [("d-explodes-or-the-loss-diverges", True)]
    explodes: dict[str, Any] = {"d": lambda step: 1e-6 * 1.1**step}
    assert found(tmp_path, **explodes, loss=lambda step: 1 + step) == ruined
    assert found(tmp_path, **explodes) == ruined  # the loss does not show it
    assert found(tmp_path, **explodes, loss=None) == ruined
    (symptom,) = diagnose(open_run(tmp_path), is_over=False)
    assert symptom.problem == "d explodes: 1.62 at half of the log, 2.62e+06 at its end"


def optimizer_of(name: str) -> Any:
    p = torch.nn.Parameter(torch.ones(2))
    made = torch.optim.AdamW([p]) if name == "AdamW" else getattr(dd, name)([p])
    p.grad = torch.ones(2)
    made.loss = 1.0
    made.step()
    return made


@pytest.mark.parametrize(
    ("name", "instead"),
    [
        ("Prodigy", None),
        ("MechanicSGD", None),
        ("NGN", "the method has no d: effective_lr is"),
        ("KT", "the method has no d: effective_lr is"),
        ("ScheduleFreeSGD", "the method has no d: effective_lr is"),
        ("COCOB", "no common learning rate, since each weight has its own: watch the loss"),
        ("AdamW", "the optimizer has no d, as AdamW has none: effective_lr is"),
    ],
)
def test_a_log_says_what_its_method_has_instead_of_d(tmp_path: Path, name: str, instead: str | None) -> None:
    with JsonlWriter(tmp_path / "metrics.jsonl") as log:
        for step in range(1, 40):
            log.write(step, loss=1.0 / step, **record(optimizer_of(name)))
    run = open_run(tmp_path)
    said = instead_of_d(run.columns)
    assert (said is None) if instead is None else (instead in str(said))
    assert not [symptom for symptom in diagnose(run) if symptom.is_error]
    assert ("d from" in summary(run)) == (instead is None)


def stops_at_half(step: int) -> float:
    return 1e-3 if step < STEPS // 2 else 0.0


@pytest.mark.parametrize("changed", [{"d": math.nan}, {"d": None}, {"d": math.nan, "effective_lr": math.nan}])
def test_without_d_the_loss_and_the_schedule_are_still_judged(tmp_path: Path, changed: dict[str, Any]) -> None:
    lost = {"lr": stops_at_half, "effective_lr": stops_at_half, "loss": lambda step: 1 + 10 * (step / STEPS - 0.3) ** 2}
    run = open_run(write(tmp_path / "metrics.jsonl", records(STEPS, adamw_lr=None, **{**lost, **changed})))
    rose, stopped = sorted(diagnose(run), key=lambda symptom: symptom.problem, reverse=True)
    assert (rose.problem[:17], rose.cure) == ("the loss has rise", "use a smaller lr, with a schedule that falls to 0")
    assert stopped.problem.startswith("the learning rate is 0 since step 150")
