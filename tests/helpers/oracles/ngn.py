"""Reference numbers for NGN-MDv1 and NGN-M (Islamov et al., arXiv 2508.15071), in the form with the iterate of before."""

from typing import Any, ClassVar

import torch
from torch import Tensor

from .base import Estimate, Group, Oracle, State


class NGNOracle(Oracle):
    """x⁺ = x - (1-β1)γ·D⁻¹g + β1·(x - x⁻) without decay, with γ = c/(1 + c/(2f)·‖g‖²) in the norm of D⁻¹.

    Groups with caps c_i stand for one step with c = 1 and D_i/c_i. What the decay takes off is no part of x - x⁻.
    lagged=True: each step uses the loss and the norm of the step before, and the first moves nothing.
    """

    shared: ClassVar[dict[str, Any]] = {"lr": 1.0, "layer_scale": 1.0, "maximize": False, "estimate": "default"}
    defaults: ClassVar[dict[str, Any]] = {
        "cap": 1.0,
        "betas": (0.9, 0.999),
        "eps": 1e-8,
        "weight_decay": 0.0,
        "lb": 0.0,
        "precondition": True,
    }
    has_d = False

    def new_state(self, x: Tensor, group: Group) -> State:
        return {"v": torch.zeros_like(x), "before": x.clone()}

    def new_scalars(self, group: Group) -> dict[str, Any]:
        return {"damping": None, "next": None, "t": 0}

    def metric(self, v: Tensor, group: Group, estimate: Estimate) -> Tensor:
        """D of the coming step over the largest step size of the group, from the v of that step."""
        c = group["lr"] * group["cap"] * group["layer_scale"]
        if not group["precondition"]:
            return torch.full_like(v, 1 / c)
        return (group["eps"] + torch.sqrt(v / (1 - group["betas"][1] ** (estimate["t"] + 1)))) / c

    def squares(self, g: Tensor, state: State, group: Group) -> Tensor:
        beta = group["betas"][1]
        return beta * state["v"] + (1 - beta) * g**2

    def before_update(self, estimate: Estimate, items: list[tuple[Group, int, Tensor]]) -> bool:
        frozen = self.freeze_after is not None and self.steps >= self.freeze_after
        if self.lagged and estimate["next"] is not None:
            estimate["damping"] = estimate["next"]
        if frozen:
            estimate["k"] += bool(items)
            return True
        clean = all(bool(torch.isfinite(g).all()) for _, _, g in items)
        if self.loss is None or not clean:
            return True
        norm = sum(
            (g**2 / self.metric(self.squares(g, self.states[i], group), group, estimate)).sum().item()
            for group, i, g in items
        )
        if norm > 0:
            room = self.loss - estimate["first"]["lb"]
            estimate["k"] += 1
            estimate["next" if self.lagged else "damping"] = 1 + norm / (2 * room) if room > 0 else float("inf")
        return True

    def update(self, x: Tensor, g: Tensor, state: State, group: Group, estimate: Estimate) -> dict[str, Tensor]:
        beta, damping, old = group["betas"][0], estimate["damping"], x.clone()
        state["v"] = self.squares(g, state, group)
        gamma = 0.0 if damping is None else 1 / damping
        kept = 1 - group["weight_decay"] * group["lr"] * group["cap"] * group["layer_scale"] * gamma
        x += beta * (x - state["before"]) - (1 - beta) * gamma * g / self.metric(state["v"], group, estimate)
        x -= (1 - kept) * old
        state["before"] = old - (1 - kept) * old
        return {}

    def conclude(self, estimate: Estimate, all_terms: list[dict[str, Tensor]], some_lr: bool, clean: bool) -> None:
        pass

    def advance(self, estimate: Estimate, before: Estimate) -> None:
        estimate["t"] += 1
