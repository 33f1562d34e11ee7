"""Reference numbers for Schedule-Free SGD (Defazio et al., arXiv 2405.15682): x, y and z are all kept."""

from typing import Any, ClassVar

from torch import Tensor

from .base import Estimate, Group, Oracle, State


class ScheduleFreeSGDOracle(Oracle):
    """z takes steps of SGD, x averages it, and the parameter is y between the two. There is no d."""

    shared: ClassVar[dict[str, Any]] = {"lr": 1.0, "layer_scale": 1.0, "maximize": False, "estimate": "default"}
    has_d = False
    defaults: ClassVar[dict[str, Any]] = {
        "momentum": 0.9,
        "weight_decay": 0.0,
        "warmup_steps": 0,
        "r": 0.0,
        "weight_lr_power": 2.0,
        "keep_average": False,
    }

    def new_state(self, x: Tensor, group: Group) -> State:
        return {"z": x.clone(), "x": x.clone()}

    def new_scalars(self, group: Group) -> dict[str, Any]:
        return {"n": 0, "largest": 0.0, "whole": 0.0}

    def rate(self, group: Group, estimate: Estimate) -> float:
        n, length = estimate["n"], group["warmup_steps"]
        return float(group["lr"] * (min(1.0, (n + 1) / length) if length else 1.0))

    def weighed(self, estimate: Estimate) -> tuple[float, float, float]:
        """(largest rate, weight of the step, sum of all weights with it), of the group with the largest lr."""
        mine = [group for group in self.groups if group["estimate"] == estimate["first"]["estimate"]]
        first = estimate["first"]
        largest = max(estimate["largest"], *(self.rate(group, estimate) for group in mine))
        weight = (estimate["n"] + 1) ** first["r"] * largest ** first["weight_lr_power"]
        return largest, weight, estimate["whole"] + weight

    def update(self, x: Tensor, g: Tensor, state: State, group: Group, estimate: Estimate) -> dict[str, Tensor]:
        _, weight, whole = self.weighed(estimate)
        c, beta = weight / whole, group["momentum"]
        z = state["z"] - group["layer_scale"] * self.rate(group, estimate) * (g + group["weight_decay"] * x)
        state["z"], state["x"] = z, (1 - c) * state["x"] + c * z
        x.copy_((1 - beta) * z + beta * state["x"])
        return {}

    def conclude(self, estimate: Estimate, all_terms: list[dict[str, Tensor]], some_lr: bool, clean: bool) -> None:
        estimate["k"] += some_lr

    def advance(self, estimate: Estimate, before: Estimate) -> None:
        estimate["largest"], _, estimate["whole"] = self.weighed(before)
        estimate["n"] += 1

    def evaluated(self) -> list[Tensor]:
        """The parameters that are evaluated."""
        return [state["x"] for state in self.states]
