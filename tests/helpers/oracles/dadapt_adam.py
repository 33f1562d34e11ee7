"""Reference numbers for D-Adapt Adam (Defazio & Mishchenko, arXiv 2301.07733, the released third form)."""

import math
from typing import Any, ClassVar

import torch
from torch import Tensor

from .base import Estimate, Group, Oracle, State, bias_correction, grown


class DAdaptAdamOracle(Oracle):
    """Adam with D-Adaptation. `inner` uses v and s of before the step."""

    defaults: ClassVar[dict[str, Any]] = {
        "betas": (0.9, 0.999),
        "eps": 1e-8,
        "weight_decay": 0,
        "decouple": False,
        "use_bias_correction": False,
        "growth_rate": math.inf,
    }

    def new_state(self, x: Tensor, group: Group) -> State:
        return {"s": torch.zeros_like(x), "m": torch.zeros_like(x), "v": torch.zeros_like(x)}

    def new_scalars(self, group: Group) -> dict[str, Any]:
        return {"num": 0.0}

    def update(self, x: Tensor, g: Tensor, state: State, group: Group, estimate: Estimate) -> dict[str, Tensor]:
        average = math.sqrt(estimate["first"]["betas"][1])
        b1, b2 = group["betas"]
        r, wd, eps = group["layer_scale"], group["weight_decay"], group["eps"]
        gamma = estimate["d"] * group["lr"] * bias_correction(group, estimate["k"])
        if not group["decouple"]:
            g = g + wd * x

        inner = (r * gamma * g * state["s"] / (state["v"].sqrt() + eps)).sum()
        state["m"] = b1 * state["m"] + (1 - b1) * r * gamma * g
        state["v"] = b2 * state["v"] + (1 - b2) * g**2
        state["s"] = average * state["s"] + (1 - average) * gamma * g
        s_l1 = (r * state["s"].abs()).sum()
        if group["decouple"]:
            x.copy_(x - wd * gamma * x)
        x.copy_(x - state["m"] / (state["v"].sqrt() + eps))
        return {"inner": inner, "s_l1": s_l1}

    def rule(self, estimate: Estimate, sums: dict[str, float]) -> None:
        first = estimate["first"]
        average = math.sqrt(first["betas"][1])
        estimate["num"] = average * estimate["num"] + (1 - average) * sums["inner"]
        d_hat = estimate["num"] / ((1 - average) * sums["s_l1"])
        estimate["d"] = grown(estimate["d"], d_hat, first["growth_rate"])
