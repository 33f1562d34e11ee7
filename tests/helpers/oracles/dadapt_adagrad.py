"""Reference numbers for D-Adapt AdaGrad (Defazio & Mishchenko, arXiv 2301.07733)."""

import math
from typing import Any, ClassVar

import torch
from torch import Tensor

from .base import Estimate, Group, Oracle, State, grown


class DAdaptAdaGradOracle(Oracle):
    """AdaGrad with D-Adaptation; the sums over s are computed anew at each step. Sparse gradients are made dense."""

    defaults: ClassVar[dict[str, Any]] = {"momentum": 0, "weight_decay": 0.0, "eps": 1e-6, "growth_rate": math.inf}

    def new_state(self, x: Tensor, group: Group) -> State:
        return {"x0": x.clone(), "s": torch.zeros_like(x), "alpha": torch.full_like(x, 1e-6)}

    def new_scalars(self, group: Group) -> dict[str, Any]:
        return {"G": 0.0}

    def update(self, x: Tensor, g: Tensor, state: State, group: Group, estimate: Estimate) -> dict[str, Tensor]:
        r, momentum = group["layer_scale"], group["momentum"]
        gamma = estimate["d"] * group["lr"]
        g = g + group["weight_decay"] * x

        state["alpha"] = state["alpha"] + g**2
        state["s"] = state["s"] + gamma * g
        root = state["alpha"].sqrt() + group["eps"]
        sksq = (r * state["s"] ** 2 / root).sum()
        s_l1 = (r * state["s"].abs()).sum()
        gsq = (r * gamma**2 * g**2 / root).sum()
        z = state["x0"] - r * state["s"] / root
        x.copy_(momentum * x + (1 - momentum) * z)
        return {"sksq": sksq, "s_l1": s_l1, "gsq": gsq}

    def rule(self, estimate: Estimate, sums: dict[str, float]) -> None:
        estimate["G"] = estimate["G"] + sums["gsq"]
        d_hat = (sums["sksq"] - estimate["G"]) / sums["s_l1"]
        estimate["d"] = grown(estimate["d"], d_hat, estimate["first"]["growth_rate"])
