"""KT: one bet of the whole model on the outcome of a coin (Orabona & Pál, arXiv 1602.04128, Algorithm 1)."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ..options.fields import LR, WEIGHT_DECAY, MethodOptions, is_positive, number, option
from .base import Buffer, Buffers, Coefficients, Documentation, Initial, Method, Options, Scalars, Sums
from .ops import add_, total


@dataclass(frozen=True)
class KTOptions(MethodOptions):
    """Options of `KT`."""

    lr: float = LR(1.0, doc="part of each step that is taken; 1.0 is the method, a schedule may shape it")
    first_wealth: float = option(
        1e-4,
        number,
        is_positive,
        "a number > 0",
        "use the default, {usual}: a bet that is won multiplies it",
        "wealth before the first bet, in units of x times the largest ‖g‖",
        of_estimate=True,
    )
    weight_decay: float = WEIGHT_DECAY(0.0, doc="decay, added to the gradient as weight_decay·x")


class KTMethod(Method):
    """Coin betting with the Krichevsky-Trofimov estimator, on gradients in units of the largest ‖g‖ so far."""

    options = KTOptions
    documentation = Documentation(
        summary="Coin betting with one wealth for the whole model.",
        when="convex problems with a few strong directions, and studies of coin betting",
        reference="Orabona and Pál, Coin Betting and Parameter-Free Online Learning, arXiv 1602.04128, Algorithm 1",
        equations="""
            before  L = max(L, ‖g‖), ‖g‖² = Σ r·g²;  W = max(W + Σ g·(x0 - x)/L, W/(t+1));  t = t + 1
            update  C = C - g/L;  z = x0 + r·C·W/t;  x = x + lr·(z - x)
        """,
        notes="""
            W starts at `first_wealth`, t at 1. There is no d: `optimizer.d` is NaN, and the group's "wealth" is what to watch.
            The paper assumes ‖g‖ <= 1; dividing by the running maximum L sees to that, and makes steps independent of the
            scale of the loss. No bet can lose more than all of W but W/t, so that the second term of the maximum is idle
            except in lagged runs, with lr below 1, and after held steps, where a bet may be larger than W.

            One blocking reduce a step, or, with before="lagged", a hidden one: L, W and t are then those of the step before.

            Use it where the solution lies in one direction from the start, for instance for linear models. One large
            gradient sets L for good and slows all that follows, so clip gradients with outliers. Do not use it for networks with
            noisy gradients, where COCOB, which bets for each weight, does better, and Prodigy best. The theory is about the
            average of x.
        """,
    )

    name = "kt"
    before = Sums(("gain", "g_sq"), needs="g_sq")
    polynomial_before = True

    def scalars(self, options: Options) -> dict[str, Initial]:
        return {"wealth": float(options["first_wealth"]), "rounds": 1.0, "largest": 0.0}

    def constants(self, options: Options) -> dict[str, float]:
        return {}

    def buffers(self, options: Options) -> dict[str, Buffer]:
        return {"x0": Buffer(init="param"), "coins": Buffer()}

    def coupled_decay(self, options: Options) -> float:
        return float(options["weight_decay"])

    def measure_before(self, x: Tensor, g: Tensor, buf: Buffers, c: Coefficients) -> tuple[Tensor, ...]:
        return total((buf["x0"] - x).mul_(g)), total(g.square()) * c["r"]

    def fold_before(self, sums: Scalars, scalars: Scalars, constants: Mapping[str, Tensor]) -> Scalars:
        largest = torch.maximum(scalars["largest"], torch.sqrt(sums["g_sq"]))
        rounds, wealth = scalars["rounds"] + 1, scalars["wealth"]
        return {
            "wealth": torch.maximum(wealth + sums["gain"] / largest, wealth / rounds),
            "rounds": rounds, "largest": largest,
        }  # fmt: skip

    def coefficients(self, options: Options, scalars: Scalars, constants: Mapping[str, float]) -> Coefficients:
        r = float(options["layer_scale"])
        return {
            "unit": _over(1.0, scalars["largest"]), "bet": scalars["wealth"] / scalars["rounds"] * r, "r": r,
            "pull": float(options["lr"]),
        }  # fmt: skip

    def update(self, x: Tensor, g: Tensor, buf: Buffers, c: Coefficients, cut: slice | None) -> tuple[Tensor, ...]:
        z = add_(buf["coins"], g, -c["unit"]) * c["bet"] + buf["x0"]
        if c["pull"] == 1:
            x.copy_(z)
        else:
            x.add_(z.sub_(x).mul_(c["pull"]))
        return ()

    def multiplied(self, x: Tensor, buf: Buffers, c: Coefficients) -> tuple[Tensor, ...]:
        return (buf["coins"],)

    def learning_rate(self, options: Options, scalars: Scalars) -> Tensor | float:
        rate = scalars["wealth"] / scalars["rounds"] * float(options["lr"]) * float(options["layer_scale"])
        return _over(rate, scalars["largest"])


def _over(value: Tensor | float, largest: Tensor) -> Tensor:
    """value/L; 0 while there was no gradient."""
    return torch.where(largest > 0, value / largest, 0.0)
