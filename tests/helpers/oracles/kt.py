"""Reference numbers for KT (Orabona & Pál, arXiv 1602.04128, Algorithm 1)."""

import math
from typing import Any, ClassVar

import torch
from torch import Tensor

from .base import Estimate, Group, Oracle, State


class KTOracle(Oracle):
    """Coin betting with one wealth, on gradients over the largest norm so far; there is no d.

    lagged=True: each step uses norm, wealth and number of rounds of the step before, and the first moves nothing.
    """

    shared: ClassVar[dict[str, Any]] = {"lr": 1.0, "layer_scale": 1.0, "maximize": False, "estimate": "default"}
    has_d = False
    defaults: ClassVar[dict[str, Any]] = {"first_wealth": 1e-4, "weight_decay": 0.0}

    def new_state(self, x: Tensor, group: Group) -> State:
        return {"x0": x.clone(), "theta": torch.zeros_like(x)}

    def new_scalars(self, group: Group) -> dict[str, Any]:
        return {"w": group["first_wealth"], "t": 1, "L": 0.0, "next": None}

    def before_update(self, estimate: Estimate, items: list[tuple[Group, int, Tensor]]) -> bool:
        frozen = self.freeze_after is not None and self.steps >= self.freeze_after
        if self.lagged and estimate["next"] is not None:
            estimate["w"], estimate["t"], estimate["L"] = estimate["next"]
        if frozen and any(group["lr"] != 0 for group, _, _ in items):
            estimate["k"] += 1
        if frozen or not items or not all(bool(torch.isfinite(g).all()) for _, _, g in items):
            return True
        gs = [(group, i, g + group["weight_decay"] * self.params[i]) for group, i, g in items]
        norm = math.sqrt(sum(group["layer_scale"] * (g**2).sum().item() for group, _, g in gs))
        if norm > 0:
            gain = sum((g * (self.states[i]["x0"] - self.params[i])).sum().item() for _, i, g in gs)
            largest, t = max(estimate["L"], norm), estimate["t"] + 1
            new = max(estimate["w"] + gain / largest, estimate["w"] / t), t, largest
            estimate["k"] += 1
            if self.lagged:
                estimate["next"] = new
            else:
                estimate["w"], estimate["t"], estimate["L"] = new
        return True

    def update(self, x: Tensor, g: Tensor, state: State, group: Group, estimate: Estimate) -> dict[str, Tensor]:
        if estimate["L"] > 0:
            state["theta"] = state["theta"] - (g + group["weight_decay"] * x) / estimate["L"]
            goal = state["x0"] + group["layer_scale"] * state["theta"] * estimate["w"] / estimate["t"]
            x += group["lr"] * (goal - x)
        return {}

    def conclude(self, estimate: Estimate, all_terms: list[dict[str, Tensor]], some_lr: bool, clean: bool) -> None:
        pass

    def latest(self, estimate: Estimate) -> float:
        return math.nan
