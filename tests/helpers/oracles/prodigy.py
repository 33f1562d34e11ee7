"""Reference numbers for Prodigy (Mishchenko & Defazio, arXiv 2306.06101; eps is scaled by d_k, as in the paper)."""

import math
from typing import Any, ClassVar

import torch
from torch import Tensor

from .base import Estimate, Group, Oracle, State, bias_correction


class ProdigyOracle(Oracle):
    """Adam with Prodigy's d. With slice_p = p, s and inner see entries 0, p, 2p, ... of each flattened parameter."""

    defaults: ClassVar[dict[str, Any]] = {
        "betas": (0.9, 0.999),
        "beta3": None,
        "eps": 1e-8,
        "weight_decay": 0,
        "decouple": True,
        "use_bias_correction": False,
        "safeguard_warmup": False,
        "d_coef": 1.0,
        "growth_rate": math.inf,
        "slice_p": 1,
        "total_steps": None,
        "exact_bias_correction": False,
        "same_weights": False,
        "length_scaling": False,
        "rms_cap": None,
        "probe_d0": False,
    }

    def new_state(self, x: Tensor, group: Group) -> State:
        return {
            "x0": x.flatten()[:: group["slice_p"]].clone(),
            "s": torch.zeros_like(x.flatten()[:: group["slice_p"]]),
            "m": torch.zeros_like(x),
            "v": torch.zeros_like(x),
        }

    def new_scalars(self, group: Group) -> dict[str, Any]:
        start = {"q": 0.0, "best": -math.inf, "good": [], "probing": group["probe_d0"], "back": False, "ended": 0}
        if group["probe_d0"]:
            squares, number = (
                sum(f(p) for p in self.params) for f in (lambda p: float((p * p).sum()), lambda p: p.numel())
            )
            start["q"] = start["first q"] = max(group["d0"], 1e-3 * max(1e-3, math.sqrt(squares / number)))
        return {"d_max": group["d0"], "num": 0.0, "W_m": 0.0, "W_v": 0.0, "taken": 0, **start}

    def size(self, estimate: Estimate) -> float:
        """What a step has in the place of d: d, or the trial step."""
        return float(max(estimate["d"], estimate["q"]))

    def advance(self, estimate: Estimate, before: Estimate) -> None:
        b1, b2 = estimate["first"]["betas"]
        p = self.size(before)
        estimate["W_m"] = b1 * before["W_m"] + (1 - b1) * p
        estimate["W_v"] = b2 * before["W_v"] + (1 - b2) * p**2
        estimate["taken"] += 1
        if before["back"]:
            estimate.update(W_m=0.0, W_v=0.0, num=0.0, back=False, ended=estimate["taken"])

    def b3(self, estimate: Estimate) -> float:
        first = estimate["first"]
        return math.sqrt(first["betas"][1]) if first["beta3"] is None else first["beta3"]

    def update(self, x: Tensor, g: Tensor, state: State, group: Group, estimate: Estimate) -> dict[str, Tensor]:
        d, d0, b3 = self.size(estimate), estimate["first"]["d0"], self.b3(estimate)
        if estimate["back"]:
            x.copy_(state["x0"].view_as(x))
            for name in ("m", "v", "s"):
                state[name].zero_()
            return {"inner": torch.zeros(()), "s_l1": torch.zeros(())}
        b1, b2 = group["betas"]
        r, wd, eps, p = group["layer_scale"], group["weight_decay"], group["eps"], group["slice_p"]
        gamma = d * group["lr"] * bias_correction(group, estimate["k"])
        if group["total_steps"] is not None:
            gamma *= max(0.0, 1 - estimate["taken"] / group["total_steps"])
            if group["length_scaling"] and group["total_steps"] > 500:
                gamma *= (500 / group["total_steps"]) ** 0.5
            if estimate["ended"]:
                gamma *= min(1.0, (estimate["taken"] - estimate["ended"] + 1) / (0.1 * group["total_steps"]))
        w = d / d0 * d if group["same_weights"] else d / d0 * gamma
        step = r * gamma
        cap = math.inf if group["rms_cap"] is None else group["rms_cap"]
        if (cap := min(cap, 0.2) if estimate["probing"] else cap) < math.inf:
            step = min(step, cap * max(1e-2, float(x.square().mean().sqrt()) if x.numel() else 0.0))
        w_s = d / d0 * d if group["safeguard_warmup"] else w
        if not group["decouple"]:
            g = g + wd * x
        g_sliced, x_sliced = g.flatten()[::p], x.flatten()[::p]

        inner = (w * g_sliced * (state["x0"] - x_sliced)).sum()
        state["m"] = b1 * state["m"] + (1 - b1) * d * g
        state["v"] = b2 * state["v"] + (1 - b2) * d**2 * g**2
        state["s"] = b3 * state["s"] + w_s * g_sliced
        s_l1 = (r * state["s"].abs()).sum()
        if group["decouple"] and not estimate["probing"]:
            x.copy_(x - wd * gamma * x)
        if group["exact_bias_correction"]:
            W_m, W_v = b1 * estimate["W_m"] + (1 - b1) * d, b2 * estimate["W_v"] + (1 - b2) * d**2
            x.copy_(x - step * (state["m"] / W_m) / ((state["v"] / W_v).sqrt() + eps))
        else:
            x.copy_(x - step * state["m"] / (state["v"].sqrt() + d * eps))
        return {"inner": inner, "s_l1": s_l1}

    def rule(self, estimate: Estimate, sums: dict[str, float]) -> None:
        first = estimate["first"]
        estimate["num"] = self.b3(estimate) * estimate["num"] + sums["inner"]
        d_hat = first["d_coef"] * self.lift(first) * estimate["num"] / sums["s_l1"]
        if estimate["d"] == first["d0"]:
            estimate["d"] = max(estimate["d"], d_hat)
        estimate["d_max"] = max(estimate["d_max"], d_hat)
        p = self.size(estimate) if estimate["probing"] else math.nan
        estimate["d"] = min(estimate["d_max"], estimate["d"] * first["growth_rate"])
        if estimate["probing"]:
            self.probe(estimate, p, d_hat)

    @staticmethod
    def lift(first: dict[str, Any]) -> float:
        """What d_hat is multiplied by in a short run."""
        return min(2.0, max(1.0, (500 / first["total_steps"]) ** 0.5)) if first["length_scaling"] else 1.0

    def probe(self, estimate: Estimate, p: float, d_hat: float) -> None:
        """A trial step of p has been taken: go on with one 8 times as long, or go back with the largest d it speaks for."""
        k, total = estimate["k"], estimate["first"]["total_steps"]
        moved = min(p, 200 * estimate["first q"])
        if k > 0:
            estimate["best"] = max(estimate["best"], d_hat / moved)
            if d_hat > 0 and d_hat / moved >= estimate["best"] / 4:
                estimate["good"].append(moved)
        if k < (7 if total is None else min(7, max(1, total // 10))):
            estimate["q"] = 8 * p
        else:
            self.end_probe(estimate)

    def end_probe(self, estimate: Estimate) -> None:
        good = min(max(estimate["good"], default=0.0), 50 * estimate["first q"])
        estimate["d"] = max(estimate["d"], good, estimate["first q"] / 4)
        estimate.update(q=0.0, probing=False, back=True, d_max=max(estimate["d_max"], estimate["d"]))

    def held(self, estimate: Estimate) -> None:
        if estimate["probing"] and estimate["k"] > 0:
            self.end_probe(estimate)
