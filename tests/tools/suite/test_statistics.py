"""Check the figures of the report against numbers worked out by hand."""

import math

import pytest

from dadapt_dist.tools.suite.statistics import Row, best, compare, hindsight, usual_rate

SEEDS = (0, 1)
# Means of AdamW on a: 4, 2, 3 (warm-up) and 2.5 (linear); on b: 1, 5, 8.
LOSSES = {
    ("a", "adamw 0.001 warmup"): {0: 3.0, 1: 5.0},
    ("a", "adamw 0.002 warmup"): {0: 1.0, 1: 3.0},
    ("a", "adamw 0.004 warmup"): {0: 3.0, 1: 3.0},
    ("a", "adamw 0.002 linear"): {0: 2.0, 1: 3.0},
    ("a", "adamw 0.008 warmup"): {0: 0.1},  # the other seed is missing
    ("a", "adamw-wd0.1 0.001 warmup"): {0: 0.1, 1: 0.1},
    ("a", "new"): {0: 3.0, 1: 3.0},
    ("b", "adamw 0.001 warmup"): {0: 1.0, 1: 1.0},
    ("b", "adamw 0.002 warmup"): {0: 5.0, 1: 5.0},
    ("b", "adamw 0.004 warmup"): {0: 8.0, 1: 8.0},
    ("b", "new"): {0: 1.5, 1: 0.5 + 2e-9},
}
BESTS = {task: best(LOSSES, task, "adamw", SEEDS) for task in ("a", "b")}


def test_the_best_has_the_lowest_mean_over_all_seeds_and_says_whether_a_better_rate_may_lie_outside() -> None:
    a, b = BESTS["a"], BESTS["b"]
    assert a is not None
    assert b is not None
    assert (a.row, a.mean, a.at_edge) == ("adamw 0.002 warmup", 2.0, False)
    assert a.sd == pytest.approx(math.sqrt(2))  # 1 and 3 about 2, over n - 1 = 1
    assert (b.row, b.mean, b.sd, b.at_edge) == ("adamw 0.001 warmup", 1.0, 0.0, True)
    assert best(LOSSES, "c", "adamw", SEEDS) is None


def test_a_row_is_the_ratio_of_means_and_within_is_one_deviation() -> None:
    row = compare(LOSSES, "new", "new", {task: b for task, b in BESTS.items() if b}, SEEDS)
    assert row.excess == pytest.approx({"a": 0.5, "b": 1e-9})
    assert row.within == {"a": True, "b": False}  # 3 <= 2 + 1.41; 1 + 1e-9 > 1 + 0
    assert row.mean() == pytest.approx(math.sqrt(1.5) - 1)
    assert row.mean(["a"]) == pytest.approx(0.5)
    assert math.isnan(row.mean(["c"]))
    assert row.worst() == ("a", pytest.approx(0.5))


def test_hindsight_is_one_rate_for_all_tasks_among_those_that_all_have() -> None:
    row = hindsight(LOSSES, "adamw", {task: b for task, b in BESTS.items() if b}, SEEDS)
    assert row is not None
    # Ratios: 1e-3: 2 and 1; 2e-3: 1 and 5; 4e-3: 1.5 and 8; the linear row is missing on b.
    assert row.name.startswith("adamw 0.001 warmup")
    assert row.excess == {"a": 1.0, "b": 0.0}
    assert row.mean() == pytest.approx(math.sqrt(2) - 1)


def test_the_usual_rate_takes_the_schedule_that_more_tasks_have() -> None:
    row = usual_rate(LOSSES, "adamw", {task: b for task, b in BESTS.items() if b}, SEEDS)
    assert row is not None
    assert row.name == "adamw 0.001 warmup"
    assert usual_rate({}, "adamw", {}, SEEDS) is None


def test_a_mean_of_percents_cannot_hide_one_large_loss() -> None:
    assert Row("x", {"a": 3.0, "b": -0.75}, {}).mean() == pytest.approx(0.0)
