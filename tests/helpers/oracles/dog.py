"""Reference numbers for DoG (Ivgi, Hinder & Carmon, arXiv 2302.12022), with the average of its weights."""

import math
from typing import Any, ClassVar

import torch
from torch import Tensor

from .base import Estimate, Group, Oracle, State


class DoGOracle(Oracle):
    """SGD whose step is the largest distance from x0 over the root of all squared gradients.

    lagged=True: each step uses the norms of the step before, and the first moves nothing. `averages` has the average of each
    parameter where the option average is on: of the weights after every step from the first in which something moved.
    """

    shared: ClassVar[dict[str, Any]] = {"lr": 1.0, "layer_scale": 1.0, "maximize": False, "estimate": "default"}
    defaults: ClassVar[dict[str, Any]] = {"reps_rel": 1e-6, "eps": 1e-8, "weight_decay": 0.0, "average": None}

    def __init__(self, params: list[Tensor], groups: list[Group] | None = None, **how: Any):
        super().__init__(params, groups, **how)
        self.averages, self.t = [x.clone() for x in self.params], dict.fromkeys(self.estimates, 0)
        self.set_first_d()

    def set_first_d(self) -> None:
        for name, estimate in self.estimates.items():
            mine = [
                i
                for group in self.groups
                if group["estimate"] == name
                for i in group["indices"]
                if i not in self.untrained
            ]
            norm = math.sqrt(sum((self.params[i] ** 2).sum().item() for i in mine))
            estimate["d"] = estimate["first"]["reps_rel"] * (1 + norm)

    def new_state(self, x: Tensor, group: Group) -> State:
        return {"x0": x.clone()}

    def new_scalars(self, group: Group) -> dict[str, Any]:
        return {"G": 0.0, "next": None}

    def step(self, *args: Any, **how: Any) -> None:
        super().step(*args, **how)
        if not any(estimate["G"] > 0 for estimate in self.estimates.values()):
            return
        for name in self.estimates:
            groups = [group for group in self.groups if group["estimate"] == name and group["average"] is not None]
            if any(group["lr"] != 0 for group in groups):
                self.t[name] += 1
                for group in groups:
                    weight = (1 + group["average"]) / (self.t[name] + group["average"])
                    for i in group["indices"]:
                        self.averages[i] = (1 - weight) * self.averages[i] + weight * self.params[i]

    begun = False  # has some lr been above 0? d is the bare reps_rel until then

    def before_update(self, estimate: Estimate, items: list[tuple[Group, int, Tensor]]) -> bool:
        self.begun |= any(group["lr"] != 0 for group in self.groups)
        frozen = self.freeze_after is not None and self.steps >= self.freeze_after
        clean = all(bool(torch.isfinite(g).all()) for _, _, g in items)
        if self.lagged and estimate["next"] is not None:
            estimate["d"], estimate["G"] = estimate["next"]
        if not frozen and clean and items:
            gs = [(i, g + group["weight_decay"] * self.params[i]) for group, i, g in items]
            far = math.sqrt(sum(((self.params[i] - self.states[i]["x0"]) ** 2).sum().item() for i, _ in gs))
            g_sq = sum((g**2).sum().item() for _, g in gs)
            if g_sq > 0:
                new = max(estimate["d"], far), estimate["G"] + self.weigh(max(estimate["d"], far)) * g_sq
                estimate["k"] += 1
                if self.lagged:
                    estimate["next"] = new
                else:
                    estimate["d"], estimate["G"] = new
        elif frozen and any(group["lr"] != 0 for group, _, _ in items):
            estimate["k"] += 1
        return True

    def weigh(self, d: float) -> float:
        """What a squared gradient counts."""
        return 1.0

    def length(self, group: Group, estimate: Estimate) -> float:
        """The step, relative to the gradient."""
        return float(estimate["d"] / math.sqrt(estimate["G"] + group["eps"]))

    def update(self, x: Tensor, g: Tensor, state: State, group: Group, estimate: Estimate) -> dict[str, Tensor]:
        if estimate["G"] > 0:
            rate = group["layer_scale"] * group["lr"] * self.length(group, estimate)
            x -= rate * (g + group["weight_decay"] * x)
        return {}

    def conclude(self, estimate: Estimate, all_terms: list[dict[str, Tensor]], some_lr: bool, clean: bool) -> None:
        pass

    def latest(self, estimate: Estimate) -> float:
        if not self.begun:
            return float(estimate["first"]["reps_rel"])
        return float(estimate["next"][0] if estimate["next"] is not None else estimate["d"])
