"""Reference numbers for D-Adapt Adan (released with arXiv 2301.07733; Adan: arXiv 2208.06677)."""

import math
from typing import Any, ClassVar

import torch
from torch import Tensor

from .base import Estimate, Group, Oracle, State, grown


class DAdaptAdanOracle(Oracle):
    """Adan with D-Adaptation. The difference of gradients is zero at a parameter's first gradient."""

    defaults: ClassVar[dict[str, Any]] = {
        "betas": (0.98, 0.92, 0.99),
        "eps": 1e-8,
        "weight_decay": 0.02,
        "no_prox": False,
        "growth_rate": math.inf,
    }

    def new_state(self, x: Tensor, group: Group) -> State:
        zeros = {name: torch.zeros_like(x) for name in ("s", "m", "n", "v")}
        return {**zeros, "g_prev": None}

    def new_scalars(self, group: Group) -> dict[str, Any]:
        return {"G": 0.0}

    def update(self, x: Tensor, g: Tensor, state: State, group: Group, estimate: Estimate) -> dict[str, Tensor]:
        average = estimate["first"]["betas"][2]
        b1, b2, b3 = group["betas"]
        r, wd = group["layer_scale"], group["weight_decay"]
        gamma = estimate["d"] * group["lr"]

        diff = torch.zeros_like(g) if state["g_prev"] is None else g - state["g_prev"]
        state["g_prev"] = g
        u = g + b2 * diff
        state["m"] = b1 * state["m"] + (1 - b1) * r * gamma * g
        state["n"] = b2 * state["n"] + (1 - b2) * r * gamma * diff
        state["v"] = b3 * state["v"] + (1 - b3) * u**2
        den = state["v"].sqrt() + group["eps"]
        state["s"] = average * state["s"] + (1 - average) * gamma * g
        gsq = (r * gamma**2 * g**2 / den).sum()
        sksq = (r * state["s"] ** 2 / den).sum()
        s_l1 = (r * state["s"].abs()).sum()

        move = (state["m"] + b2 * state["n"]) / den
        if group["no_prox"]:
            x.copy_(x * (1 - gamma * wd) - move)
        else:
            x.copy_((x - move) / (1 + gamma * wd))
        return {"gsq": gsq, "sksq": sksq, "s_l1": s_l1}

    def rule(self, estimate: Estimate, sums: dict[str, float]) -> None:
        first = estimate["first"]
        average = first["betas"][2]
        estimate["G"] = average * estimate["G"] + (1 - average) * sums["gsq"]
        d_hat = (sums["sksq"] / (1 - average) - estimate["G"]) / sums["s_l1"]
        estimate["d"] = grown(estimate["d"], d_hat, first["growth_rate"])
