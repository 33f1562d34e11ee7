"""Reference numbers for DoWG (Khaled, Mishchenko & Jin, arXiv 2305.16284)."""

import math
from typing import Any, ClassVar

from . import dog
from .base import Estimate, Group


class DoWGOracle(dog.DoGOracle):
    """SGD whose step is the squared distance over the root of all squared gradients, each times the squared distance then."""

    defaults: ClassVar[dict[str, Any]] = {"d0": 1e-2, "eps": 1e-4, "weight_decay": 0.0, "average": None}

    def set_first_d(self) -> None:
        for estimate in self.estimates.values():
            estimate["d"] = estimate["first"]["d0"]

    def weigh(self, d: float) -> float:
        return d**2

    def length(self, group: Group, estimate: Estimate) -> float:
        return float(estimate["d"] ** 2 / (math.sqrt(estimate["G"]) + group["eps"]))

    def latest(self, estimate: Estimate) -> float:
        return float(estimate["next"][0] if estimate["next"] is not None else estimate["d"])
