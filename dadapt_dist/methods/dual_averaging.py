"""Dual averaging with D-Adaptation, whose d the theory bounds (Defazio & Mishchenko, arXiv 2301.07733, Algorithm 1)."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ..options.fields import D0, GROWTH_RATE, LR, WEIGHT_DECAY, MethodOptions, option, switch, text
from .base import Buffer, Buffers, Coefficients, Documentation, Initial, Method, Options, Scalars, Sums
from .ops import add_, grown, total


@dataclass(frozen=True)
class DualAveragingOptions(MethodOptions):
    """Options of `DualAveraging`."""

    lr: float = LR(1.0, doc="multiplies d in the weight of a gradient; 1.0 is the method, a schedule may shape it")
    lower_bound: str = option(
        "II",
        text,
        lambda value: value in ("I", "II"),
        "'I' or 'II'",
        "use the default, {usual}, which is never the smaller one",
        "which lower bound on D gives d: Option I of the paper, from norms, or Option II, from inner products",
        of_estimate=True,
    )
    average: bool = switch(False, "keep the average Σ d·x/Σ d, which `optimizer.eval()` shows: one buffer more")
    weight_decay: float = WEIGHT_DECAY(0.0, doc="decay, added to the gradient as weight_decay·x")
    d0: float = D0(1e-6)
    growth_rate: float = GROWTH_RATE(math.inf)


class DualAveragingMethod(Method):
    """Dual averaging with D-Adaptation.

    Every step weighs its gradient with the d of before it, and moves with a γ that has it: `weight` is that d, which `advance`
    sets once the weights have moved, and `last_gamma` the γ with which x was made. Both are thus those of the step at hand,
    also where its sums count one step later.
    """

    options = DualAveragingOptions
    documentation = Documentation(
        summary="Dual averaging with D-Adaptation: its d is proven to stay below the distance to the solution.",
        when="convex problems, teaching and checks of the theory; slow for networks, which Prodigy trains",
        reference="Defazio and Mishchenko, Learning-Rate-Free Learning by D-Adaptation, arXiv 2301.07733, Algorithm 1",
        equations="""
            before  w = d·lr with d of before the step;  γ' = γ, in the first step 1/‖g‖
                    num = num + Σ r·γ'·w·g·s;  q = q + Σ r·γ'·w²·g²
                    G = G + Σ r·g²;  γ = 1/√G;  S = Σ r·(s + w·g)²
                    II:  d_hat = num/√S;  I:  d_hat = (γ·S - q)/(2·√S)
                    d = max(d, min(d_hat, d·growth_rate))
            update  s = s + w·g;  x = x0 - r·γ·s
            average:  x_avg = Σ d·x/Σ d over the x at which gradients were taken
        """,
        notes="""
            For a convex loss, full gradients and one lr for all groups d <= D = ‖x0 - x*‖ in every step, with either
            bound, whatever lr does from step to step, exact and lagged; r != 1 measures D by ‖·/√r‖. II is never below I of the
            same run: both can be had from its scalars. Where x converges to x*, d ends at D/(1+√3) = 0.366·D or more.
            [dual-averaging.md](dual-averaging.md) shows it.

            One blocking reduce a step. With before="lagged" it is hidden: γ has the gradients up to the step before, w the d that
            was known one step earlier still, and the first step only measures.

            Use it where the bound matters: convex losses, a check of data or of a distance, lectures. It is slow where d
            has to grow far, since early gradients keep their small weights, and far behind Prodigy for networks.
        """,
    )

    name = "dual_averaging"
    before = Sums(("inner", "g_sq", "s_sq", "penalty"), needs="g_sq")
    polynomial_before = True

    def scalars(self, options: Options) -> dict[str, Initial]:
        d0 = float(options["d0"])
        return {
            "d": d0, "weight": d0, "weight_sum": 0.0, "numerator": 0.0, "penalty_sum": 0.0,
            "g_sq_sum": 0.0, "s_sq_last": 0.0, "last_gamma": 0.0,
        }  # fmt: skip

    def constants(self, options: Options) -> dict[str, float]:
        return super().constants(options) | {"is_second": float(options["lower_bound"] == "II")}

    def buffers(self, options: Options) -> dict[str, Buffer]:
        kept = {"x0": Buffer(init="param"), "s": Buffer()}  # both make up the iterate: freezing keeps them
        return kept | {"average": Buffer(init="param")} if options["average"] else kept

    def coupled_decay(self, options: Options) -> float:
        return float(options["weight_decay"])

    def coefficients(self, options: Options, scalars: Scalars, constants: Mapping[str, float]) -> Coefficients:
        r, weight, last = float(options["layer_scale"]), scalars["weight"], scalars["last_gamma"]
        gamma, known = _gamma(scalars["g_sq_sum"]), scalars["g_sq_sum"] > 0
        w = weight * options["lr"]
        # γ_0, which multiplies 0 in every iterate, is γ_1: known here in a lagged run, and by the fold alone in an exact one.
        made = torch.where(last > 0, last, torch.where(known, gamma, 1.0))
        return {
            "weight": torch.where(known, w, 0.0), "gamma": gamma * r, "r": r,
            "inner": made * w * r, "penalty": made * w.square() * r,
            "part": weight / (scalars["weight_sum"] + weight), "last_gamma": last * r,
        }  # fmt: skip

    def measure_before(self, x: Tensor, g: Tensor, buf: Buffers, c: Coefficients) -> tuple[Tensor, ...]:
        square = total(g.square())
        s = add_(buf["s"].clone(), g, c["weight"])
        return total(g * buf["s"]) * c["inner"], square * c["r"], total(s.square_()) * c["r"], square * c["penalty"]

    def fold_before(self, sums: Scalars, scalars: Scalars, constants: Mapping[str, Tensor]) -> Scalars:
        before, s_sq, norm = scalars["g_sq_sum"], sums["s_sq"], torch.sqrt(sums["s_sq"])
        g_sq_sum, numerator = before + sums["g_sq"], scalars["numerator"] + sums["inner"]
        penalty = sums["penalty"] * torch.where(before > 0, 1.0, torch.rsqrt(sums["g_sq"]))
        penalty_sum = scalars["penalty_sum"] + penalty
        first = (s_sq * torch.rsqrt(g_sq_sum) - penalty_sum) / (2 * norm)
        d_hat = torch.where(constants["is_second"] > 0, numerator / norm, first)
        return {
            "d": grown(scalars, torch.where(s_sq == 0, 0.0, d_hat), constants),  # s is 0 until the first step has moved
            "numerator": numerator, "penalty_sum": penalty_sum, "g_sq_sum": g_sq_sum, "s_sq_last": s_sq,
        }  # fmt: skip

    def update(self, x: Tensor, g: Tensor, buf: Buffers, c: Coefficients, cut: slice | None) -> tuple[Tensor, ...]:
        if "average" in buf:
            add_(buf["average"], x - buf["average"], c["part"])
        s = add_(buf["s"], g, c["weight"])
        x.copy_(buf["x0"] - s * c["gamma"])
        return ()

    def advance(self, scalars: Scalars, constants: Mapping[str, Tensor]) -> Scalars:
        counted = torch.where(scalars["g_sq_sum"] > 0, scalars["weight"], 0.0)
        return {
            "weight": scalars["d"].clone(), "weight_sum": scalars["weight_sum"] + counted,
            "last_gamma": _gamma(scalars["g_sq_sum"]),
        }  # fmt: skip

    def squared(self, g: Tensor, before: Buffers, after: Buffers, c: Coefficients) -> tuple[Tensor, ...]:
        return g, after["s"]

    def multiplied(self, x: Tensor, buf: Buffers, c: Coefficients) -> tuple[Tensor, ...]:
        return (buf["s"],)

    def learning_rate(self, options: Options, scalars: Scalars) -> Tensor | float:
        return super().learning_rate(options, scalars) * _gamma(scalars["g_sq_sum"])

    def moved(
        self, d: float, scalars: Mapping[str, float], sums: Mapping[str, float] | None, constants: Mapping[str, float]
    ) -> dict[str, float]:
        if d >= scalars["d"] or scalars["s_sq_last"] == 0:
            return {"d": d, "weight": d}
        norm = math.sqrt(scalars["s_sq_last"])  # what both bounds find is d from here on
        penalty = norm * (norm / math.sqrt(scalars["g_sq_sum"]) - 2 * d)
        return {
            "d": d, "weight": d, "numerator": min(scalars["numerator"], d * norm),
            "penalty_sum": max(scalars["penalty_sum"], penalty),
        }  # fmt: skip

    # ---------------------------------------------------------------- the average

    def to_eval(self, x: Tensor, buf: Buffers, c: Coefficients) -> None:
        if "average" in buf:
            x.add_(self._to_average(buf, c))

    def to_train(self, x: Tensor, buf: Buffers, c: Coefficients) -> None:
        if "average" in buf:
            x.sub_(self._to_average(buf, c))

    @staticmethod
    def _to_average(buf: Buffers, c: Coefficients) -> Tensor:
        """From the last iterate to the average: the maps undo each other, also of a tensor that was left out of a step."""
        last: Tensor = buf["x0"] - buf["s"] * c["last_gamma"]
        return buf["average"] - last


def _gamma(g_sq_sum: Tensor) -> Tensor:
    """1/√G; 0 while there was no gradient."""
    return torch.where(g_sq_sum > 0, torch.rsqrt(g_sq_sum), 0.0)
