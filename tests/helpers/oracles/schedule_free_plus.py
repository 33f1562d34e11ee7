"""Reference numbers for ScheduleFree+ (Defazio, arXiv 2605.19095) with a bound on its steps: x, y and z are all kept."""

import math
from typing import Any, ClassVar

import torch
from torch import Tensor

from .base import Estimate, Group, Oracle, State


class ScheduleFreePlusOracle(Oracle):
    """AdamW on z at Polyak's learning rate."""

    shared: ClassVar[dict[str, Any]] = {"lr": 1.0, "layer_scale": 1.0, "maximize": False, "estimate": "default"}
    has_d = False
    defaults: ClassVar[dict[str, Any]] = {
        "betas": (0.9, 0.95),
        "sf_beta": 0.9,
        "sf_beta_max": 0.965,
        "sf_beta_steps": 0,
        "eps": 1e-8,
        "weight_decay": 0.0,
        "norm_beta": 0.0,
        "bound": 1.0,
        "warmup_steps": 0,
        "average_from": 0,
        "r": 0.0,
        "weight_lr_power": 2.0,
        "keep_average": False,
    }

    def new_state(self, x: Tensor, group: Group) -> State:
        return {"z": x.clone(), "x": x.clone(), "m": torch.zeros_like(x), "v": torch.zeros_like(x)}

    def new_scalars(self, group: Group) -> dict[str, Any]:
        return {"n": 0, "largest": 0.0, "whole": 0.0, "norm": 0.0, "rate": 0.0, "next": None}

    def beta(self, estimate: Estimate) -> float:
        first, n = estimate["first"], estimate["n"]
        if first["sf_beta_steps"] == 0:
            return float(first["sf_beta"])
        share = min(n / first["sf_beta_steps"], 1.0)
        return 1 - (1 - first["sf_beta"]) ** (1 - share) * (1 - first["sf_beta_max"]) ** share

    def before_update(self, estimate: Estimate, items: list[tuple[Group, int, Tensor]]) -> bool:
        """The rate of this step, from its own sums, or, lagged, from those of the step before."""
        frozen = self.freeze_after is not None and self.steps >= self.freeze_after
        if self.lagged and estimate["next"] is not None:
            estimate["rate"], estimate["norm"] = estimate["next"]
        if not frozen and self.loss is not None and items and all(bool(torch.isfinite(g).all()) for _, _, g in items):
            first = estimate["first"]
            l1 = sum(float(g.abs().sum()) for _, _, g in items)
            inner = sum(float((g * (self.states[i]["z"] - self.states[i]["x"])).sum()) for _, i, g in items)
            if l1 > 0:
                p = first["norm_beta"]
                norm = p * estimate["norm"] + (1 - p) * math.sqrt(math.pi / 2) * l1
                f = self.loss
                top = f + self.beta(estimate) * inner
                top = top if math.isinf(first["bound"]) else min(top, first["bound"] * f)
                new = max(0.0, top) / (norm / (1 - p ** (estimate["k"] + 1))), norm
                estimate["k"] += 1
                if self.lagged:
                    estimate["next"] = new
                else:
                    estimate["rate"], estimate["norm"] = new
        elif frozen and any(group["lr"] != 0 for group, _, _ in items):
            estimate["k"] += 1
        return True

    def alpha(self, lr: float, estimate: Estimate) -> float:
        length = estimate["first"]["warmup_steps"]
        return float(lr * (min(1.0, (estimate["n"] + 1) / length) if length else 1.0) * estimate["rate"])

    def weighed(self, estimate: Estimate) -> tuple[float, float, float]:
        first = estimate["first"]
        lr = max(group["lr"] for group in self.groups if group["estimate"] == first["estimate"])
        largest = max(estimate["largest"], self.alpha(lr, estimate))
        weight = (estimate["n"] + 1) ** first["r"] * largest ** first["weight_lr_power"]
        weight = weight if estimate["n"] >= first["average_from"] else 0.0
        return largest, weight, estimate["whole"] + weight

    def update(self, x: Tensor, g: Tensor, state: State, group: Group, estimate: Estimate) -> dict[str, Tensor]:
        _, weight, whole = self.weighed(estimate)
        c = weight / whole if whole > 0 else 1.0
        (b1, b2), n, a, beta = group["betas"], estimate["n"], self.alpha(group["lr"], estimate), self.beta(estimate)
        state["z"] = state["z"] - a * a * group["weight_decay"] * x
        state["m"] = b1 * state["m"] + (1 - b1) * g
        state["v"] = b2 * state["v"] + (1 - b2) * g**2
        root = torch.sqrt(state["v"] / (1 - b2 ** (n + 1))) + group["eps"]
        state["z"] = state["z"] - a * group["layer_scale"] * state["m"] / (1 - b1 ** (n + 1)) / root
        state["x"] = (1 - c) * state["x"] + c * state["z"]
        x.copy_(beta * state["x"] + (1 - beta) * state["z"])
        return {}

    def conclude(self, estimate: Estimate, all_terms: list[dict[str, Tensor]], some_lr: bool, clean: bool) -> None:
        pass

    def advance(self, estimate: Estimate, before: Estimate) -> None:
        estimate["largest"], _, estimate["whole"] = self.weighed(before)
        estimate["n"] += 1

    def evaluated(self) -> list[Tensor]:
        """The parameters that are evaluated."""
        return [state["x"] for state in self.states]
