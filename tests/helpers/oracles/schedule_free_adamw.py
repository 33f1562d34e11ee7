"""Reference numbers for Schedule-Free AdamW (Defazio et al., arXiv 2405.15682): x, y and z are all kept."""

from typing import Any, ClassVar

import torch
from torch import Tensor

from .base import Estimate, Group, Oracle, State


class ScheduleFreeAdamWOracle(Oracle):
    """z takes steps of AdamW without momentum, x averages it, and the parameter is y between the two. There is no d."""

    shared: ClassVar[dict[str, Any]] = {"lr": 0.0025, "layer_scale": 1.0, "maximize": False, "estimate": "default"}
    has_d = False
    defaults: ClassVar[dict[str, Any]] = {
        "betas": (0.9, 0.999),
        "eps": 1e-8,
        "weight_decay": 0.0,
        "warmup_steps": 0,
        "r": 0.0,
        "weight_lr_power": 2.0,
        "keep_average": False,
    }

    def new_state(self, x: Tensor, group: Group) -> State:
        return {"z": x.clone(), "x": x.clone(), "v": torch.zeros_like(x)}

    def new_scalars(self, group: Group) -> dict[str, Any]:
        return {"n": 0, "largest": 0.0, "whole": 0.0}

    def warmed(self, estimate: Estimate) -> float:
        length = estimate["first"]["warmup_steps"]
        return min(1.0, (estimate["n"] + 1) / length) if length else 1.0

    def weighed(self, estimate: Estimate) -> tuple[float, float, float]:
        """(largest rate, weight of the step, sum of all weights with it), for the largest lr of the groups."""
        first = estimate["first"]
        lr = max(group["lr"] for group in self.groups if group["estimate"] == first["estimate"])
        largest = max(estimate["largest"], lr * self.warmed(estimate))
        weight = (estimate["n"] + 1) ** first["r"] * largest ** first["weight_lr_power"]
        return largest, weight, estimate["whole"] + weight

    def update(self, x: Tensor, g: Tensor, state: State, group: Group, estimate: Estimate) -> dict[str, Tensor]:
        _, weight, whole = self.weighed(estimate)
        c, (beta, b2), gamma = weight / whole, group["betas"], group["lr"] * self.warmed(estimate)
        state["v"] = b2 * state["v"] + (1 - b2) * g**2
        u = g / (torch.sqrt(state["v"] / (1 - b2 ** (estimate["n"] + 1))) + group["eps"])
        state["z"] = state["z"] - gamma * (group["layer_scale"] * u + group["weight_decay"] * x)
        state["x"] = (1 - c) * state["x"] + c * state["z"]
        x.copy_((1 - beta) * state["z"] + beta * state["x"])
        return {}

    def conclude(self, estimate: Estimate, all_terms: list[dict[str, Tensor]], some_lr: bool, clean: bool) -> None:
        estimate["k"] += some_lr

    def advance(self, estimate: Estimate, before: Estimate) -> None:
        estimate["largest"], _, estimate["whole"] = self.weighed(before)
        estimate["n"] += 1

    def evaluated(self) -> list[Tensor]:
        """The parameters that are evaluated."""
        return [state["x"] for state in self.states]
