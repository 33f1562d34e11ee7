"""Reference numbers for MoMo (Schaipp et al., arXiv 2305.07583): the model of the loss is evaluated, not solved for."""

from typing import Any, ClassVar

import torch
from torch import Tensor

from .base import Estimate, Group, Oracle, State


class MoMoOracle(Oracle):
    """Where the averaged linear models reach lb along y(s) = (x - s·c·D⁻¹m)/(1 + wd·c), 0 <= s <= 1.

    The average of f_j + ⟨g_j, x - x_j⟩ over the steps j that had a loss is carried along by the inner product of m with the way
    that s leads. lagged=True: s is that of the step before, and the first step moves nothing.
    """

    shared: ClassVar[dict[str, Any]] = {"lr": 1.0, "layer_scale": 1.0, "maximize": False, "estimate": "default"}
    defaults: ClassVar[dict[str, Any]] = {
        "cap": 1.0,
        "weight_decay": 0.0,
        "beta": 0.9,
        "lb": 0.0,
        "use_bias_correction": False,
    }
    has_d = False

    def new_state(self, x: Tensor, group: Group) -> State:
        return {"m": torch.zeros_like(x)}

    def new_scalars(self, group: Group) -> dict[str, Any]:
        return {"s": 0.0, "next": None, "average": 0.0, "weights": [], "t": 0}

    def constant(self, group: Group) -> float:
        return float(group["beta"])

    def corrects(self, group: Group) -> bool:
        return bool(group["use_bias_correction"])

    def averaged(self, g: Tensor, state: State, group: Group, estimate: Estimate) -> Tensor:
        """m of the coming step."""
        beta = self.constant(group)
        if estimate["t"] == 0 and not self.corrects(group):
            return g.clone()
        return beta * state["m"] + (1 - beta) * g

    def way(self, x: Tensor, m: Tensor, g: Tensor, state: State, group: Group, estimate: Estimate, s: float) -> Tensor:
        """y(s) - x."""
        c = group["lr"] * group["cap"] * group["layer_scale"]
        y = (x - s * c * self.corrected(m, group, estimate) / self.metric(g, state, group, estimate)) / (
            1 + c * group["weight_decay"]
        )
        return y - x

    def corrected(self, m: Tensor, group: Group, estimate: Estimate) -> Tensor:
        return m / (1 - self.constant(group) ** (estimate["t"] + 1)) if self.corrects(group) else m

    def metric(self, g: Tensor, state: State, group: Group, estimate: Estimate) -> Tensor:
        """D of the coming step."""
        return torch.ones_like(g)

    def before_update(self, estimate: Estimate, items: list[tuple[Group, int, Tensor]]) -> bool:
        frozen = self.freeze_after is not None and self.steps >= self.freeze_after
        if self.lagged and estimate["next"] is not None:
            estimate["s"] = estimate["next"]
        if frozen:
            estimate["k"] += bool(items)
            return True
        clean = all(bool(torch.isfinite(g).all()) for _, _, g in items)
        if self.loss is None or not clean:
            return True

        def foretold(s: float) -> float:
            found = 0.0
            for group, i, g in items:
                x, state = self.params[i], self.states[i]
                m = self.averaged(g, state, group, estimate)
                way = self.way(x, m, g, state, group, estimate, s)
                found += (self.corrected(m, group, estimate) * way).sum().item()
            return found

        first, beta = estimate["first"], self.constant(estimate["first"])
        weights = [beta * w for w in estimate["weights"]] + [1 - beta]
        if not self.corrects(first):
            weights[0] = beta ** (len(weights) - 1)
        height = (1 - weights[-1] / sum(weights)) * estimate["average"] + weights[-1] / sum(weights) * self.loss
        stays, goes = foretold(0.0), foretold(1.0)
        if stays > goes:
            s = min(1.0, max(0.0, (height + stays - first["lb"]) / (stays - goes)))
            estimate["average"], estimate["weights"] = height + (1 - s) * stays + s * goes, weights
            estimate["k"] += 1
            estimate["next" if self.lagged else "s"] = s
        return True

    def update(self, x: Tensor, g: Tensor, state: State, group: Group, estimate: Estimate) -> dict[str, Tensor]:
        m = self.averaged(g, state, group, estimate)
        x += self.way(x, m, g, state, group, estimate, estimate["s"])
        state["m"] = m
        return {}

    def conclude(self, estimate: Estimate, all_terms: list[dict[str, Tensor]], some_lr: bool, clean: bool) -> None:
        pass

    def advance(self, estimate: Estimate, before: Estimate) -> None:
        estimate["t"] += 1
