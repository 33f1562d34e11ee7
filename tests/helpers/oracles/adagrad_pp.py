"""Reference numbers for AdaGrad++ (Tao, Yuan, Zhou, Cao & Gu, arXiv 2412.19444, Algorithm 1)."""

import math
from typing import Any, ClassVar

import torch
from torch import Tensor

from .base import Estimate, Group, Oracle, State


class AdaGradPPOracle(Oracle):
    """AdaGrad whose step size is the largest ‖x - x0‖/√p so far. lagged changes nothing: p is needed after the first step."""

    denominator = "dist_sq"
    defaults: ClassVar[dict[str, Any]] = {"eps": 1e-8, "weight_decay": 0.0}

    def __init__(self, params: list[Tensor], groups: list[Group] | None = None, **how: Any):
        super().__init__(params, groups, **how)
        for name, estimate in self.estimates.items():
            mine = [i for group in self.groups if group["estimate"] == name for i in group["indices"]]
            estimate["p"] = sum(self.params[i].numel() for i in mine if i not in self.untrained)

    def new_state(self, x: Tensor, group: Group) -> State:
        return {"x0": x.clone(), "sum": torch.zeros_like(x)}

    def new_scalars(self, group: Group) -> dict[str, Any]:
        return {}

    def update(self, x: Tensor, g: Tensor, state: State, group: Group, estimate: Estimate) -> dict[str, Tensor]:
        g = g + group["weight_decay"] * x
        state["sum"] = state["sum"] + g**2
        rate = group["layer_scale"] * group["lr"] * estimate["d"]
        x -= rate * g / (state["sum"].sqrt() + group["eps"])
        return {"dist_sq": ((x - state["x0"]) ** 2).sum()}

    def rule(self, estimate: Estimate, sums: dict[str, float]) -> None:
        estimate["d"] = max(estimate["d"], math.sqrt(sums["dist_sq"] / estimate["p"]))
