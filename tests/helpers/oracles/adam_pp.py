"""Reference numbers for Adam++ (Tao, Yuan, Zhou, Cao & Gu, arXiv 2412.19444, Algorithm 2)."""

import math
from typing import Any, ClassVar

import torch
from torch import Tensor

from .base import Estimate, Group, Oracle, State


class AdamPPOracle(Oracle):
    """Adam whose step size is the largest ‖x - x0‖/√p so far, over the root of the number of steps. lagged changes nothing."""

    denominator = "dist_sq"
    defaults: ClassVar[dict[str, Any]] = {
        "betas": (0.9, 0.999),
        "beta1_decay": 1.0,
        "normalizer": "max",
        "eps": 1e-8,
        "weight_decay": 0.0,
    }

    def __init__(self, params: list[Tensor], groups: list[Group] | None = None, **how: Any):
        super().__init__(params, groups, **how)
        for name, estimate in self.estimates.items():
            mine = [i for group in self.groups if group["estimate"] == name for i in group["indices"]]
            estimate["p"] = sum(self.params[i].numel() for i in mine if i not in self.untrained)

    def new_state(self, x: Tensor, group: Group) -> State:
        zeros = torch.zeros_like(x)
        return {"x0": x.clone(), "m": zeros, "v": zeros, "V": zeros}

    def new_scalars(self, group: Group) -> dict[str, Any]:
        return {"updates": 0}

    def update(self, x: Tensor, g: Tensor, state: State, group: Group, estimate: Estimate) -> dict[str, Tensor]:
        k, (beta1, beta2) = estimate["updates"], group["betas"]
        beta1 = beta1 * group["beta1_decay"] ** k
        state["m"] = beta1 * state["m"] + (1 - beta1) * g
        if group["normalizer"] == "sum":
            state["V"] = state["V"] + g**2
            s = state["V"].sqrt()
        else:
            state["v"] = beta2 * state["v"] + (1 - beta2) * g**2
            state["V"] = torch.maximum(state["V"], state["v"])
            s = ((k + 1) * state["V"]).sqrt()
        rate = group["lr"] * estimate["d"]
        x *= 1 - group["weight_decay"] * rate
        x -= group["layer_scale"] * rate * state["m"] / (group["eps"] + s)
        return {"dist_sq": ((x - state["x0"]) ** 2).sum()}

    def rule(self, estimate: Estimate, sums: dict[str, float]) -> None:
        estimate["d"] = max(estimate["d"], math.sqrt(sums["dist_sq"] / estimate["p"]))

    def advance(self, estimate: Estimate, before: Estimate) -> None:
        estimate["updates"] += 1
