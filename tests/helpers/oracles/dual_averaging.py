"""Reference numbers for dual averaging with D-Adaptation (Defazio & Mishchenko, arXiv 2301.07733, Algorithm 1)."""

import math
from typing import Any, ClassVar

import torch
from torch import Tensor

from .base import Estimate, Group, Oracle, State, grown


class DualAveragingOracle(Oracle):
    """s is the weighted sum of all gradients, x = x0 - s/√(Σ‖g‖²), and a gradient weighs the d of before its step.

    lagged=True: γ has the gradients up to the step before, a weight the d that was known one step before that, and the first
    step moves nothing.
    """

    defaults: ClassVar[dict[str, Any]] = {
        "lower_bound": "II",
        "average": False,
        "weight_decay": 0.0,
        "growth_rate": math.inf,
    }

    def new_state(self, x: Tensor, group: Group) -> State:
        return {"x0": x.clone(), "s": torch.zeros_like(x), "weighted": torch.zeros_like(x), "weights": 0.0}

    def new_scalars(self, group: Group) -> dict[str, Any]:
        # weight: d of the coming step's gradient. made_with: γ of the present x.
        return {"weight": group["d0"], "G": 0.0, "made_with": None, "num": 0.0, "q": 0.0, "pending": None}

    def before_update(self, estimate: Estimate, items: list[tuple[Group, int, Tensor]]) -> bool:
        frozen = self.freeze_after is not None and self.steps >= self.freeze_after
        if not frozen and items and all(bool(torch.isfinite(g).all()) for _, _, g in items):
            found = self.measured(estimate, items)
            if found["g_sq"] > 0:
                if self.lagged:
                    estimate["pending"] = found
                else:
                    self.learn(estimate, found)
        elif frozen and any(group["lr"] != 0 for group, _, _ in items):
            estimate["k"] += 1
        return True

    def measured(self, estimate: Estimate, items: list[tuple[Group, int, Tensor]]) -> dict[str, float]:
        found = {"g_s": 0.0, "g_sq": 0.0, "wg_sq": 0.0, "s_sq": 0.0}
        moves = not self.lagged or estimate["G"] > 0
        for group, i, g in items:
            x, state, r = self.params[i], self.states[i], group["layer_scale"]
            g, w = g + group["weight_decay"] * x, estimate["weight"] * group["lr"]
            found["g_sq"] += r * (g**2).sum().item()
            found["wg_sq"] += r * w**2 * (g**2).sum().item()
            if moves:
                found["g_s"] += r * w * (g * state["s"]).sum().item()
                found["s_sq"] += r * ((state["s"] + w * g) ** 2).sum().item()
        gamma = estimate["made_with"] or (1 / math.sqrt(estimate["G"]) if estimate["G"] else None)
        found["gamma"] = gamma or (1 / math.sqrt(found["g_sq"]) if found["g_sq"] else 0.0)
        return found

    def learn(self, estimate: Estimate, found: dict[str, float]) -> None:
        estimate["G"] += found["g_sq"]
        estimate["num"] += found["gamma"] * found["g_s"]
        estimate["q"] += found["gamma"] * found["wg_sq"]
        estimate["k"] += 1
        norm = math.sqrt(found["s_sq"])
        if norm > 0:
            if estimate["first"]["lower_bound"] == "I":
                d_hat = (found["s_sq"] / math.sqrt(estimate["G"]) - estimate["q"]) / (2 * norm)
            else:
                d_hat = estimate["num"] / norm
            estimate["d"] = grown(estimate["d"], d_hat, estimate["first"]["growth_rate"])

    def update(self, x: Tensor, g: Tensor, state: State, group: Group, estimate: Estimate) -> dict[str, Tensor]:
        if estimate["G"] > 0:
            state["weighted"] = state["weighted"] + estimate["weight"] * x
            state["weights"] += estimate["weight"]
            g = g + group["weight_decay"] * x
            state["s"] = state["s"] + estimate["weight"] * group["lr"] * g
            x.copy_(state["x0"] - group["layer_scale"] * state["s"] / math.sqrt(estimate["G"]))
        return {}

    def conclude(self, estimate: Estimate, all_terms: list[dict[str, Tensor]], some_lr: bool, clean: bool) -> None:
        pass

    def advance(self, estimate: Estimate, before: Estimate) -> None:
        estimate["weight"] = estimate["d"]
        if estimate["G"] > 0:
            estimate["made_with"] = 1 / math.sqrt(estimate["G"])
        if estimate["pending"] is not None:
            self.learn(estimate, estimate["pending"])
            estimate["pending"] = None

    def averages(self) -> list[Tensor]:
        """Σ d·x/Σ d of each parameter, over the points at which gradients were taken."""
        return [state["weighted"] / state["weights"] for state in self.states]
