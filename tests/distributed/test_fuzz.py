"""Check that random configurations follow the oracle, and that the fuzzer finds and tells apart seeded faults."""

import random

import pytest

from dadapt_dist.methods import METHODS
from tests.fuzz.config import DRAWN, FEATURES, LAYOUTS, OTHERS, PENDING, described, draw
from tests.fuzz.drive import Fuzzer
from tests.fuzz.judge import expect, judge
from tests.fuzz.ranks import Seen

FIXED, FRESH, SECONDS = range(40), 40, 30.0
PRODIGY = next(seed for seed in range(1000) if draw(seed, tuple(FEATURES)).method == "prodigy")


@pytest.mark.slow
def test_random_configurations_follow_one_uninterrupted_process() -> None:
    """Some seeds are the same in every run, some are new; a failure says how to repeat it. More of them: make fuzz."""
    base = random.SystemRandom().randrange(10**6) * 1000
    with Fuzzer(deadline=60.0) as fuzzer:
        report = fuzzer.fuzz([*FIXED, *range(base, base + FRESH)], seconds=SECONDS, shrink=False)
    assert not report.failures, "\n\n".join(map(str, report.failures))
    assert report.moved > report.runs // 4, "d hardly ever grew: the comparisons would be empty"


def test_a_seed_stands_for_one_configuration_and_all_layouts_and_methods_are_drawn() -> None:
    drawn = [draw(seed) for seed in range(400)]
    assert [described(c) for c in drawn] == [described(draw(seed)) for seed in range(400)]
    assert {layout for c in drawn for layout in c.layouts} == set(LAYOUTS)
    assert {c.method for c in drawn} == {*DRAWN, *OTHERS} <= set(METHODS)
    assert FEATURES.keys() >= PENDING


def test_dropping_every_feature_leaves_nothing_of_it() -> None:
    for seed in range(50):
        config = draw(seed, tuple(FEATURES))
        assert (config.layouts, config.dtype, len(config.legs), config.bad) == ({"copies"}, "float64", 1, {})
        assert config.event is None


def seen(seed: int) -> tuple[list[Seen], Seen]:
    """What two ranks see of a run that is right."""
    config, expected = draw(seed, tuple(FEATURES)), expect(draw(seed, tuple(FEATURES)))
    ranks = []
    for _ in range(2):
        values = expected.params[-1].clone()
        numbers = values.new_ones(len(values)).cumsum(0).long() - 1
        d = {step: {name: value.hex() for name, value in ds.items()} for step, ds in enumerate(expected.d)}
        ranks.append(Seen(d=d, values=[[(numbers[1:], values[1:])]], steps=config.steps, reduces={4: 1}))
    return ranks, ranks[1]


def wrong(ranks: list[Seen]) -> list[str]:
    config = draw(PRODIGY, tuple(FEATURES))
    return judge(config, expect(config), [ranks])


def test_the_judge_passes_what_is_right_and_names_what_is_not() -> None:
    assert wrong(seen(PRODIGY)[0]) == []
    ranks, one = seen(PRODIGY)
    one.d[5]["default"] = (float.fromhex(one.d[5]["default"]) * (1 + 1e-15)).hex()
    assert any("differs between ranks" in text for text in wrong(ranks))
    ranks, one = seen(PRODIGY)
    one.values[0][0][1][2] += 1e-6
    assert any("entry 3 of the parameters" in text for text in wrong(ranks))
    ranks, one = seen(PRODIGY)
    one.reduces[4] = 2
    assert wrong(ranks) == ["rank 1: 2 reduces in step 4, not 1"]
    ranks, one = seen(PRODIGY)
    for rank in ranks:
        rank.d[2]["default"] = (float.fromhex(one.d[2]["default"]) * (1 + 1e-9)).hex()
    assert any("the oracle's" in text for text in wrong(ranks))
    ranks, one = seen(PRODIGY)
    one.wrong.append("buffer s is not finite")
    assert wrong(ranks) == ["rank 1: buffer s is not finite"]
