"""Reference numbers for MoMo-Adam (Schaipp et al., arXiv 2305.07583, Algorithm 4)."""

from typing import Any, ClassVar

import torch
from torch import Tensor

from . import momo
from .base import Estimate, Group, State


class MoMoAdamOracle(momo.MoMoOracle):
    """MoMo with D = eps + √v̂ and averages that begin at 0."""

    defaults: ClassVar[dict[str, Any]] = {
        "cap": 1e-2,
        "betas": (0.9, 0.999),
        "eps": 1e-8,
        "weight_decay": 0.0,
        "lb": 0.0,
    }

    def new_state(self, x: Tensor, group: Group) -> State:
        return {**super().new_state(x, group), "v": torch.zeros_like(x)}

    def constant(self, group: Group) -> float:
        return float(group["betas"][0])

    def corrects(self, group: Group) -> bool:
        return True

    def squares(self, g: Tensor, state: State, group: Group) -> Tensor:
        beta = group["betas"][1]
        return beta * state["v"] + (1 - beta) * g**2

    def metric(self, g: Tensor, state: State, group: Group, estimate: Estimate) -> Tensor:
        v_hat = self.squares(g, state, group) / (1 - group["betas"][1] ** (estimate["t"] + 1))
        return group["eps"] + torch.sqrt(v_hat)

    def update(self, x: Tensor, g: Tensor, state: State, group: Group, estimate: Estimate) -> dict[str, Tensor]:
        super().update(x, g, state, group, estimate)
        state["v"] = self.squares(g, state, group)
        return {}
