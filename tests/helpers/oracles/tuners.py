"""Reference numbers for Mechanic (arXiv 2306.00144) and TRAC (arXiv 2405.16642) around SGD, Adam and Lion."""

import math
from copy import deepcopy
from typing import Any, ClassVar

import torch
from torch import Tensor

from .base import Estimate, Group, Oracle, State

BETAS = [0.9, 0.99, 0.999, 0.9999, 0.99999, 0.999999]
Item = tuple[Group, int, Tensor]


class _Tuner(Oracle):
    """x = x0 - S·Δ, Δ the sum of the updates u of a direction; S from what went before, 1e-300 in the place of 0.

    lagged=True: each step uses the S that the gradients of the step before gave.
    """

    shared: ClassVar[dict[str, Any]] = {"lr": 1.0, "layer_scale": 1.0, "maximize": False, "estimate": "default"}
    common: ClassVar[dict[str, Any]] = {"s_max": math.inf, "delta": "stored", "s_eps": 1e-8, "weight_decay": 0.0}
    d_may_fall = True

    def direction(self, x: Tensor, g: Tensor, state: State, group: Group, t: int) -> Tensor:
        """The update u of the step t, counted from 1; the state goes on."""
        raise NotImplementedError

    def bets(self, estimate: Estimate) -> list[float]:
        """The parts of S, without the cap."""
        raise NotImplementedError

    def learn(self, estimate: Estimate, items: list[Item]) -> None:
        """Move the scalars by one step's gradients."""
        raise NotImplementedError

    def new_state(self, x: Tensor, group: Group) -> State:
        return {"x0": x.clone(), "delta": torch.zeros_like(x)}

    def new_scalars(self, group: Group) -> dict[str, Any]:
        first = self.first(group)
        capped = min(first, group["s_max"])
        return {"S": capped, "was": capped, "t": 0, "next": None, **self.own_scalars(group, capped)}

    def first(self, group: Group) -> float:
        raise NotImplementedError

    def own_scalars(self, group: Group, first: float) -> dict[str, Any]:
        raise NotImplementedError

    def before(self, estimate: Estimate, i: int) -> Tensor:
        """Δ of before the step."""
        state, first = self.states[i], estimate["first"]
        known = estimate["was"] + first["s_eps"]
        if first["delta"] == "recomputed":
            return (state["x0"] - self.params[i]) / known
        return state["delta"] if first["delta"] == "summed" else state["delta"] * estimate["was"] / known

    def product(self, estimate: Estimate, items: list[Item], xs: dict[int, Tensor] | None = None) -> float:
        """Σ Δ·g, or Σ Δ·x where xs are given."""
        return sum((self.before(estimate, i) * (g if xs is None else xs[i])).sum().item() for _, i, g in items)

    def along(self, group: Group) -> float:
        return float(group["lr"] * group["layer_scale"])

    def before_update(self, estimate: Estimate, items: list[Item]) -> bool:
        frozen = self.freeze_after is not None and self.steps >= self.freeze_after
        clean = all(bool(torch.isfinite(g).all()) for _, _, g in items)
        if self.lagged and estimate["next"] is not None:
            estimate.update(estimate["next"], next=None)
        if frozen:
            estimate["k"] += any(group["lr"] != 0 for group, _, _ in items)
        elif clean and any(bool((g != 0).any()) for _, _, g in items):
            new = {name: deepcopy(value) for name, value in estimate.items() if name not in ("first", "next")}
            new["first"] = estimate["first"]
            self.learn(new, items)
            new["S"] = max(1e-300, min(sum(self.bets(new)), new["first"]["s_max"]))
            estimate["k"] += 1
            changed = {name: new[name] for name in new if name not in ("first", "k", "t", "was")}
            estimate.update({"next": changed} if self.lagged else changed)
        return True

    def update(self, x: Tensor, g: Tensor, state: State, group: Group, estimate: Estimate) -> dict[str, Tensor]:
        [i] = [i for i, other in enumerate(self.states) if other is state]
        u = self.direction(x, g, state, group, estimate["t"] + 1)
        state["delta"] = self.before(estimate, i) + self.along(group) * u
        x.copy_(state["x0"] - estimate["S"] * state["delta"])
        return {}

    def conclude(self, estimate: Estimate, all_terms: list[dict[str, Tensor]], some_lr: bool, clean: bool) -> None:
        pass

    def advance(self, estimate: Estimate, before: Estimate) -> None:
        estimate["t"] += 1
        estimate["was"] = estimate["S"]

    def latest(self, estimate: Estimate) -> float:
        return float(estimate["S"] if estimate["next"] is None else estimate["next"]["S"])


class _Mechanic(_Tuner):
    """Six bets with memories of 10 to 1e6 steps on the decrease that Δ promises."""

    of_mechanic: ClassVar[dict[str, Any]] = {**_Tuner.common, "variant": "optax", "s_init": None, "s_decay": 0.01}

    def unit(self, group: Group) -> float:
        return float(group["s_init"] or {"optax": 1e-6, "authors": 1e-8}[group["variant"]])

    def first(self, group: Group) -> float:
        return self.unit(group) * (1.0 if group["variant"] == "optax" else 1e-6 / group["s_eps"])

    def own_scalars(self, group: Group, first: float) -> dict[str, Any]:
        m = 0.0 if group["variant"] == "optax" else 1e-6
        return {"s": [first / 6] * 6, "r": [0.0] * 6, "m": [m] * 6, "v": [0.0] * 6}

    def bets(self, estimate: Estimate) -> list[float]:
        return list(estimate["s"])

    def learn(self, estimate: Estimate, items: list[Item]) -> None:
        first, authors = estimate["first"], estimate["first"]["variant"] == "authors"
        xs = {i: self.params[i] for _, i, _ in items}
        if authors:
            for group, i, g in items:
                u = self.direction(xs[i], g, deepcopy(self.states[i]), group, estimate["t"] + 1)
                xs[i] = xs[i] - self.along(group) * u
        g_norm = math.sqrt(sum((g**2).sum().item() for _, _, g in items))
        x_norm = math.sqrt(sum((x**2).sum().item() for x in xs.values()))
        decay = first["s_decay"] * estimate["S"] * g_norm / (x_norm + first["s_eps"])
        h = self.product(estimate, items) + decay * self.product(estimate, items, xs)
        s, r, m, v = (estimate[name] for name in "srmv")
        for j, beta in enumerate(BETAS):
            if authors:
                r[j] = max(0.0, beta * r[j] + s[j] * h)
                m[j] = max(beta * m[j], abs(h))
            else:
                r[j] = beta * r[j] + s[j] * min(max(h, -m[j]), m[j])
                m[j] = max(beta * m[j], abs(h) + first["s_eps"])
            v[j] = beta**2 * v[j] + h**2
            s[j] = (self.unit(first) / 6 * m[j] + max(r[j], 0.0)) / (math.sqrt(v[j]) + first["s_eps"])
        if sum(s) > first["s_max"]:
            estimate["s"] = [each * first["s_max"] / sum(s) for each in s]


class _TRAC(_Tuner):
    """Six bets that grow with erfi of the signed sum of what was won, over its standard deviation."""

    of_trac: ClassVar[dict[str, Any]] = {**_Tuner.common, "s_init": 1e-8}

    def first(self, group: Group) -> float:
        ratios = [beta * 1e-8 / group["s_eps"] for beta in BETAS]
        return float(group["s_init"] * sum(map(erfi, ratios)) / erfi(math.sqrt(0.5)))

    def own_scalars(self, group: Group, first: float) -> dict[str, Any]:
        return {"sigma": [1e-8] * 6, "v": [0.0] * 6}

    def bets(self, estimate: Estimate) -> list[float]:
        first = estimate["first"]
        ratios = [
            a / (math.sqrt(2 * v) + first["s_eps"]) for a, v in zip(estimate["sigma"], estimate["v"], strict=True)
        ]
        return [first["s_init"] * erfi(ratio) / erfi(math.sqrt(0.5)) for ratio in ratios]

    def learn(self, estimate: Estimate, items: list[Item]) -> None:
        h = self.product(estimate, items)
        for j, beta in enumerate(BETAS):
            estimate["sigma"][j] = beta * estimate["sigma"][j] + h
            estimate["v"][j] = beta**2 * estimate["v"][j] + h**2


def erfi(x: float) -> float:
    """2/√π·∫exp(t²)dt from 0 to x, by its power series, whose terms have one sign."""
    term, total = x, 0.0
    for n in range(2000):
        total += term / (2 * n + 1)
        if abs(term) < 1e-20 * abs(total):
            break
        term *= x * x / (n + 1)
    return 2 / math.sqrt(math.pi) * total


class _OverSGD(_Tuner):
    of_direction: ClassVar[dict[str, Any]] = {"momentum": 0.0}

    def direction(self, x: Tensor, g: Tensor, state: State, group: Group, t: int) -> Tensor:
        state["m"] = group["momentum"] * state.get("m", torch.zeros_like(x)) + g
        return state["m"] + group["weight_decay"] * x


class _OverAdam(_Tuner):
    of_direction: ClassVar[dict[str, Any]] = {"betas": (0.9, 0.999), "eps": 1e-8}

    def direction(self, x: Tensor, g: Tensor, state: State, group: Group, t: int) -> Tensor:
        (b1, b2), zeros = group["betas"], torch.zeros_like(x)
        state["m"] = b1 * state.get("m", zeros) + (1 - b1) * g
        state["v"] = b2 * state.get("v", zeros) + (1 - b2) * g**2
        m, v = state["m"] / (1 - b1**t), state["v"] / (1 - b2**t)
        return m / (v.sqrt() + group["eps"]) + group["weight_decay"] * x


class _OverLion(_Tuner):
    of_direction: ClassVar[dict[str, Any]] = {"betas": (0.9, 0.99)}

    def direction(self, x: Tensor, g: Tensor, state: State, group: Group, t: int) -> Tensor:
        (b1, b2), m = group["betas"], state.get("m", torch.zeros_like(x))
        state["m"] = b2 * m + (1 - b2) * g
        return torch.sign(b1 * m + (1 - b1) * g) + group["weight_decay"] * x


class MechanicSGDOracle(_OverSGD, _Mechanic):
    key = "mechanic_sgd"
    defaults: ClassVar[dict[str, Any]] = {**_Mechanic.of_mechanic, **_OverSGD.of_direction}


class MechanicAdamOracle(_OverAdam, _Mechanic):
    key = "mechanic_adam"
    defaults: ClassVar[dict[str, Any]] = {**_Mechanic.of_mechanic, **_OverAdam.of_direction}


class MechanicLionOracle(_OverLion, _Mechanic):
    key = "mechanic_lion"
    defaults: ClassVar[dict[str, Any]] = {**_Mechanic.of_mechanic, **_OverLion.of_direction}


class TRACAdamOracle(_OverAdam, _TRAC):
    key = "trac_adam"
    defaults: ClassVar[dict[str, Any]] = {**_TRAC.of_trac, **_OverAdam.of_direction}
