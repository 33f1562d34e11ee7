"""Reference numbers for COCOB (Orabona & Tommasi, arXiv 1705.07795, Algorithm 2)."""

from typing import Any, ClassVar

import torch
from torch import Tensor

from .base import Estimate, Group, Oracle, State


class COCOBOracle(Oracle):
    """Coin betting per coordinate; there is no d."""

    shared: ClassVar[dict[str, Any]] = {"lr": 1.0, "layer_scale": 1.0, "maximize": False, "estimate": "default"}
    has_d = False
    defaults: ClassVar[dict[str, Any]] = {"alpha": 100.0, "eps": 1e-8, "weight_decay": 0.0}

    def new_state(self, x: Tensor, group: Group) -> State:
        zeros = torch.zeros_like(x)
        return {"x0": x.clone(), "L": zeros + group["eps"], "G": zeros, "R": zeros, "C": zeros}

    def new_scalars(self, group: Group) -> dict[str, Any]:
        return {}

    def update(self, x: Tensor, g: Tensor, state: State, group: Group, estimate: Estimate) -> dict[str, Tensor]:
        g = g + group["weight_decay"] * x
        state["L"] = torch.maximum(state["L"], g.abs())
        state["G"] = state["G"] + g.abs()
        state["R"] = torch.clamp(state["R"] - g * (x - state["x0"]), min=0)
        state["C"] = state["C"] - g
        scale = state["L"] * torch.maximum(state["G"] + state["L"], group["alpha"] * state["L"])
        z = state["x0"] + group["layer_scale"] * state["C"] / scale * (state["L"] + state["R"])
        x += group["lr"] * (z - x)
        return {}

    def conclude(self, estimate: Estimate, all_terms: list[dict[str, Tensor]], some_lr: bool, clean: bool) -> None:
        estimate["k"] += some_lr
