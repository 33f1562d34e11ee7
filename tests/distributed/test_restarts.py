"""Check that a torchrun job whose rank is killed during a save ends with the bits of an uninterrupted run."""

import hashlib
import random
from typing import Any

import pytest

from examples.restart import LAYOUTS
from tests.long.restarts import run

STEPS = 20  # of Prodigy alone: what the other methods save and load is in tests/distributed/test_resharding.py


def alone(layout: str) -> dict[str, str]:
    """On every rank: the whole run, without checkpoints."""
    training = LAYOUTS[layout]()
    for step in range(STEPS):
        training.step(step)
    weights = b"".join(w.detach().numpy().tobytes() for w in training.weights())
    return {"d": float(training.optimizer.d).hex(), "weights": hashlib.sha256(weights).hexdigest()}


@pytest.mark.slow
@pytest.mark.parametrize(
    "layout", [pytest.param(one, marks=[] if one == "fsdp2" else pytest.mark.matrix) for one in LAYOUTS]
)
def test_a_run_whose_ranks_are_killed_ends_as_one_that_was_left_alone(layout: str, pools: Any) -> None:
    seed = random.SystemRandom().randrange(10**6)
    killed = run(layout, 1, seed, steps=STEPS)
    assert killed.result == pools(2).run(alone, layout)[0], (
        f"seed {seed}, killed at {killed.kills}\n{killed.output[-3000:]}"
    )
    assert killed.restarts == 1
