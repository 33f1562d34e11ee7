"""Reference numbers for KT of each coordinate (Orabona & Pál, arXiv 1602.04128, Algorithm 1 in one dimension)."""

from typing import Any, ClassVar

import torch
from torch import Tensor

from .base import Estimate, Group, Oracle, State


class CoordinateKTOracle(Oracle):
    """Coin betting with a wealth for each element; there is no d."""

    shared: ClassVar[dict[str, Any]] = {"lr": 1.0, "layer_scale": 1.0, "maximize": False, "estimate": "default"}
    has_d = False
    defaults: ClassVar[dict[str, Any]] = {"first_wealth": 1e-4, "eps": 1e-8, "weight_decay": 0.0}

    def new_state(self, x: Tensor, group: Group) -> State:
        zeros = torch.zeros_like(x)
        return {
            "x0": x.clone(),
            "L": zeros + group["eps"],
            "w": zeros + group["first_wealth"],
            "t": zeros + 1,
            "theta": zeros,
        }

    def new_scalars(self, group: Group) -> dict[str, Any]:
        return {}

    def update(self, x: Tensor, g: Tensor, state: State, group: Group, estimate: Estimate) -> dict[str, Tensor]:
        g = g + group["weight_decay"] * x
        state["L"] = torch.maximum(state["L"], g.abs())
        coin = -g / state["L"]
        won = state["w"] + coin * (x - state["x0"])
        state["w"] = torch.maximum(won, state["w"] / (state["t"] + 1))
        state["t"] = state["t"] + (g != 0).double()
        state["theta"] = state["theta"] + coin
        goal = state["x0"] + group["layer_scale"] * state["theta"] * state["w"] / state["t"]
        x += group["lr"] * (goal - x)
        return {}

    def conclude(self, estimate: Estimate, all_terms: list[dict[str, Tensor]], some_lr: bool, clean: bool) -> None:
        estimate["k"] += some_lr
