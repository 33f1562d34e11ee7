"""Check that schedules peak at 1, never waste a step at lr 0, and end at their documented value."""

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.optim.lr_scheduler import LambdaLR

from dadapt_dist import schedules

ALL = [schedules.linear_decay_with_warmup, schedules.cosine_with_warmup, schedules.warmup_stable_decay]
Schedule = Callable[..., LambdaLR]


def sgd() -> torch.optim.Optimizer:
    return torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)


def lrs(schedule: Schedule, total: int, **options: float) -> list[float]:
    """The lr at steps 0 ... total; the last entry is what a step after the run would use."""
    optimizer = sgd()
    scheduler = schedule(optimizer, total, **options)
    values = []
    for _ in range(total + 1):
        values.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return values


@pytest.mark.parametrize("schedule", ALL)
@given(total=st.integers(1, 60), warmup=st.floats(0, 0.79))
def test_every_step_has_a_positive_lr_of_at_most_one_and_one_step_has_the_peak(
    schedule: Schedule, total: int, warmup: float
) -> None:
    if schedule is schedules.warmup_stable_decay and math.ceil(warmup * total) + math.ceil(0.2 * total) > total:
        return
    values = lrs(schedule, total, warmup=warmup)
    assert all(0 < value <= 1 for value in values[:-1])
    assert max(values[:-1]) == 1
    assert values[-1] == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("schedule", ALL)
def test_the_warmup_rises_in_equal_parts_from_one_over_its_length(schedule: Schedule) -> None:
    assert lrs(schedule, 100, warmup=0.04)[:5] == pytest.approx([0.25, 0.5, 0.75, 1.0, 1.0], abs=3e-3)


def test_the_linear_decay_is_a_straight_line_to_zero() -> None:
    assert lrs(schedules.linear_decay_with_warmup, 4, warmup=0) == [1.0, 0.75, 0.5, 0.25, 0.0]


def test_the_cosine_is_half_way_in_the_middle_and_ends_at_final() -> None:
    values = lrs(schedules.cosine_with_warmup, 10, warmup=0, final=0.2)
    assert values[5] == pytest.approx(0.6)
    assert values[10] == pytest.approx(0.2)


def test_the_plateau_lasts_until_the_decay() -> None:
    values = lrs(schedules.warmup_stable_decay, 10, warmup=0.2, decay=0.3)
    assert values == pytest.approx([0.5, 1, 1, 1, 1, 1, 1, 1, 2 / 3, 1 / 3, 0])


@pytest.mark.parametrize("schedule", ALL)
def test_past_the_end_the_multiplier_stays(schedule: Schedule) -> None:
    optimizer = sgd()
    scheduler = schedule(optimizer, 3)
    for _ in range(6):
        optimizer.step()
        scheduler.step()
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("schedule", ALL)
def test_a_schedule_goes_on_from_its_saved_state(schedule: Schedule) -> None:
    whole, first = lrs(schedule, 10), sgd()
    scheduler = schedule(first, 10)
    for _ in range(4):
        first.step()
        scheduler.step()
    second = sgd()
    resumed = schedule(second, 10)
    resumed.load_state_dict(scheduler.state_dict())
    second.load_state_dict(first.state_dict())
    second.step()
    resumed.step()
    assert second.param_groups[0]["lr"] == whole[5]


@pytest.mark.parametrize("schedule", ALL)
@pytest.mark.parametrize(
    ("total", "options", "named"),
    [
        (0, {}, "total_steps=0"),
        (2.5, {}, "total_steps=2.5"),
        (10, {"warmup": 1.0}, "warmup=1.0"),
        (10, {"warmup": -0.1}, "warmup=-0.1"),
        (10, {"warmup": math.nan}, "warmup=nan"),
    ],
)
def test_a_schedule_names_the_bad_value(schedule: Schedule, total: int, options: dict[str, float], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        schedule(sgd(), total, **options)


def test_warmup_and_decay_must_fit_into_the_run() -> None:
    with pytest.raises(ValueError, match="sum must not exceed 1"):
        schedules.warmup_stable_decay(sgd(), 10, warmup=0.5, decay=0.6)
    with pytest.raises(ValueError, match=r"final=2 must be a fraction of the run in \[0, 1\]"):
        schedules.cosine_with_warmup(sgd(), 10, final=2)
