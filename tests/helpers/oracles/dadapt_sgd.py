"""Reference numbers for D-Adapt SGD (Defazio & Mishchenko, arXiv 2301.07733)."""

import math
from typing import Any, ClassVar

import torch
from torch import Tensor

from .base import Estimate, Group, Oracle, State, grown


class DAdaptSGDOracle(Oracle):
    """SGD with D-Adaptation; steps are divided by the norm of the first gradient whose norm is finite and not zero.

    lagged=True: the step of that gradient only measures it, and moves nothing.
    """

    defaults: ClassVar[dict[str, Any]] = {"momentum": 0.0, "weight_decay": 0, "growth_rate": math.inf}
    denominator = "s_sq"

    def new_state(self, x: Tensor, group: Group) -> State:
        return {"x0": x.clone(), "s": torch.zeros_like(x)}

    def new_scalars(self, group: Group) -> dict[str, Any]:
        return {"num": 0.0, "g0_norm": None}

    def is_ready(self, estimate: Estimate) -> bool:
        return estimate["g0_norm"] is not None

    def before_update(self, estimate: Estimate, items: list[tuple[Group, int, Tensor]]) -> bool:
        if estimate["g0_norm"] is None:
            g_sq = 0.0
            for group, i, g in items:
                decayed = g + group["weight_decay"] * self.params[i]
                g_sq += (group["layer_scale"] * decayed**2).sum().item()
            if g_sq == 0 or not math.isfinite(g_sq):
                return False
            estimate["g0_norm"] = math.sqrt(g_sq)
            return not self.lagged
        return True

    def update(self, x: Tensor, g: Tensor, state: State, group: Group, estimate: Estimate) -> dict[str, Tensor]:
        r, momentum = group["layer_scale"], group["momentum"]
        gamma = estimate["d"] * group["lr"] / estimate["g0_norm"]
        g = g + group["weight_decay"] * x

        inner = (r * gamma * g * state["s"]).sum()
        state["s"] = state["s"] + gamma * g
        s_sq = (r * state["s"] ** 2).sum()
        z = state["x0"] - r * state["s"]
        x.copy_(momentum * x + (1 - momentum) * z)
        return {"inner": inner, "s_sq": s_sq}

    def rule(self, estimate: Estimate, sums: dict[str, float]) -> None:
        estimate["num"] = estimate["num"] + sums["inner"]
        d_hat = 2 * estimate["num"] / math.sqrt(sums["s_sq"])
        estimate["d"] = grown(estimate["d"], d_hat, estimate["first"]["growth_rate"])
