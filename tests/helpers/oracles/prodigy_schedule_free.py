"""Reference numbers for Prodigy's d as the learning rate of Schedule-Free AdamW: x, y and z are all kept."""

import math
from typing import Any, ClassVar

import torch
from torch import Tensor

from .base import Estimate, Group, Oracle, State


class ProdigyScheduleFreeOracle(Oracle):
    """Schedule-Free AdamW at d·lr, with the sums of Prodigy along z. With slice_p = p they see entries 0, p, 2p, ..."""

    defaults: ClassVar[dict[str, Any]] = {
        "betas": (0.9, 0.999),
        "beta3": None,
        "eps": 1e-8,
        "weight_decay": 0.0,
        "d_coef": 1.0,
        "growth_rate": math.inf,
        "warmup_steps": 0,
        "r": 0.0,
        "weight_lr_power": 2.0,
        "slice_p": 1,
        "keep_average": False,
    }

    def new_state(self, x: Tensor, group: Group) -> State:
        start = x.flatten()[:: group["slice_p"]].clone()
        return {"z": x.clone(), "x": x.clone(), "v": torch.zeros_like(x), "x0": start, "s": torch.zeros_like(start)}

    def new_scalars(self, group: Group) -> dict[str, Any]:
        return {"n": 0, "largest": 0.0, "whole": 0.0, "num": 0.0, "d_max": group["d0"]}

    def rate(self, lr: float, estimate: Estimate) -> float:
        length = estimate["first"]["warmup_steps"]
        return float(estimate["d"] * lr * (min(1.0, (estimate["n"] + 1) / length) if length else 1.0))

    def weighed(self, estimate: Estimate) -> tuple[float, float, float]:
        first = estimate["first"]
        lr = max(group["lr"] for group in self.groups if group["estimate"] == first["estimate"])
        largest = max(estimate["largest"], self.rate(lr, estimate))
        weight = (estimate["n"] + 1) ** first["r"] * largest ** first["weight_lr_power"]
        return largest, weight, estimate["whole"] + weight

    def b3(self, estimate: Estimate) -> float:
        first = estimate["first"]
        return math.sqrt(first["betas"][1]) if first["beta3"] is None else first["beta3"]

    def update(self, x: Tensor, g: Tensor, state: State, group: Group, estimate: Estimate) -> dict[str, Tensor]:
        _, weight, whole = self.weighed(estimate)
        c, (beta, b2), gamma, p = weight / whole, group["betas"], self.rate(group["lr"], estimate), group["slice_p"]
        w = estimate["d"] / estimate["first"]["d0"] * gamma
        inner = (w * g.flatten()[::p] * (state["x0"] - state["z"].flatten()[::p])).sum()
        state["s"] = self.b3(estimate) * state["s"] + w * g.flatten()[::p]
        state["v"] = b2 * state["v"] + (1 - b2) * g**2
        u = g / (torch.sqrt(state["v"] / (1 - b2 ** (estimate["n"] + 1))) + group["eps"])
        state["z"] = state["z"] - gamma * (group["layer_scale"] * u + group["weight_decay"] * x)
        state["x"] = (1 - c) * state["x"] + c * state["z"]
        x.copy_((1 - beta) * state["z"] + beta * state["x"])
        return {"inner": inner, "s_l1": group["layer_scale"] * state["s"].abs().sum()}

    def rule(self, estimate: Estimate, sums: dict[str, float]) -> None:
        first = estimate["first"]
        estimate["num"] = self.b3(estimate) * estimate["num"] + sums["inner"]
        d_hat = first["d_coef"] * estimate["num"] / sums["s_l1"]
        if estimate["d"] == first["d0"]:
            estimate["d"] = max(estimate["d"], d_hat)
        estimate["d_max"] = max(estimate["d_max"], d_hat)
        estimate["d"] = min(estimate["d_max"], estimate["d"] * first["growth_rate"])

    def advance(self, estimate: Estimate, before: Estimate) -> None:
        estimate["largest"], _, estimate["whole"] = self.weighed(before)
        estimate["n"] += 1

    def evaluated(self) -> list[Tensor]:
        """The parameters that are evaluated."""
        return [state["x"] for state in self.states]
