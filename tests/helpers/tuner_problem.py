"""The small run on which released tuners were recorded: no random numbers, so that it is the same everywhere."""

import json
import math
from pathlib import Path
from typing import Any

SIZE, STEPS, EVERY = 12, 50, 5
RECORDED = Path(__file__).parents[1] / "recorded" / "tuners.json"
START = [math.sin(1.7 * i) for i in range(SIZE)]
DECAY = 0.1


def gradient(step: int, x: list[float]) -> list[float]:
    """A quadratic's with curvatures between 0.2 and 1, and noise of the step."""
    noise = [0.3 * math.sin(12.9898 * i + 78.233 * step) for i in range(SIZE)]
    return [(0.2 + 0.8 * i / SIZE) * (x[i] - 2 * math.cos(i)) + noise[i] for i in range(SIZE)]


def lr(step: int) -> float:
    """A warm-up and a decay, with peak 1."""
    return min(1.0, (step + 1) / 10) * (1 - step / 100)


def recorded() -> dict[str, dict[str, Any]]:
    """What released code gave, by case: "s" after every fifth step, and "x" at the end."""
    read: dict[str, dict[str, Any]] = json.loads(RECORDED.read_text(encoding="utf-8"))
    return read
