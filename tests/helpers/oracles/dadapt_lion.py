"""Reference numbers for D-Adapt Lion (released with arXiv 2301.07733; Lion: arXiv 2302.06675)."""

import math
from typing import Any, ClassVar

import torch
from torch import Tensor

from .base import Estimate, Group, Oracle, State


class DAdaptLionOracle(Oracle):
    """Lion with D-Adaptation. `inner` uses s of before the step; d has no bound on its growth."""

    defaults: ClassVar[dict[str, Any]] = {"betas": (0.9, 0.99), "weight_decay": 0.0}

    def new_state(self, x: Tensor, group: Group) -> State:
        return {"s": torch.zeros_like(x), "m": torch.zeros_like(x)}

    def new_scalars(self, group: Group) -> dict[str, Any]:
        return {"num": 0.0}

    def update(self, x: Tensor, g: Tensor, state: State, group: Group, estimate: Estimate) -> dict[str, Tensor]:
        average = math.sqrt(estimate["first"]["betas"][1])
        b1, b2 = group["betas"]
        r, wd = group["layer_scale"], group["weight_decay"]
        gamma = estimate["d"] * group["lr"]

        x.copy_(x * (1 - gamma * wd))
        u = (b1 * state["m"] + (1 - b1) * g).sign()
        x.copy_(x - r * gamma * u)
        state["m"] = b2 * state["m"] + (1 - b2) * gamma * g
        inner = (r * gamma * u * state["s"]).sum()
        state["s"] = average * state["s"] + (1 - average) * gamma * u
        s_l1 = (r * state["s"].abs()).sum()
        return {"inner": inner, "s_l1": s_l1}

    def rule(self, estimate: Estimate, sums: dict[str, float]) -> None:
        average = math.sqrt(estimate["first"]["betas"][1])
        estimate["num"] = average * estimate["num"] + (1 - average) * sums["inner"]
        d_hat = estimate["num"] / ((1 - average) * sums["s_l1"])
        estimate["d"] = max(estimate["d"], d_hat)
