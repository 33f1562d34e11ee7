"""KT for every weight: each bets a share of a wealth of its own (Orabona & Pál, arXiv 1602.04128, for each coordinate)."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ..options.fields import EPS, LR, WEIGHT_DECAY, MethodOptions, is_positive, number, option
from .base import Buffer, Buffers, Coefficients, Documentation, Initial, Method, Options, Scalars


@dataclass(frozen=True)
class CoordinateKTOptions(MethodOptions):
    """Options of `CoordinateKT`."""

    lr: float = LR(1.0, doc="part of each step that is taken; 1.0 is the method, a schedule may shape it")
    first_wealth: float = option(
        1e-4,
        number,
        is_positive,
        "a number > 0",
        "use the default, {usual}: a bet that is won multiplies it",
        "wealth of each weight before its first bet, in units of x times its largest gradient",
    )
    eps: float = EPS(1e-8, doc="first value of the largest gradient L")
    weight_decay: float = WEIGHT_DECAY(0.0, doc="decay, added to the gradient as weight_decay·x")


class CoordinateKTMethod(Method):
    """The Krichevsky-Trofimov bettor for each coordinate, without a learning rate and without sums."""

    options = CoordinateKTOptions
    documentation = Documentation(
        summary="Coin betting with a wealth for every weight.",
        when="convex and sparse problems without any tuning; no d, no collective, five buffers a parameter",
        reference="Orabona and Pál, Coin Betting and Parameter-Free Online Learning, arXiv 1602.04128, Algorithm 1, for "
        "each coordinate",
        equations="""
            update  L = max(L, |g|);  u = g/L;  W = max(W + u·(x0 - x), W/(t+1));  t = t + 1 where g != 0
                    C = C - u;  z = x0 + r·C·W/t;  x = x + lr·(z - x)
        """,
        notes="""
            W starts at `first_wealth`, t at 1, L at eps. Each weight has its own bet, so there are no sums: `optimizer.d` is NaN.
            A weight without a gradient does not use up a round, which suits rare features.

            Use it for convex models, and where COCOB is too timid in its first 100 steps: KT bets all that the outcomes so far
            allow, and doubles its wealth within a few steps of one sign. For the same reason it overshoots on networks, whose
            gradients turn late; prefer COCOB or Prodigy there.
        """,
    )

    name = "coordinate_kt"

    def scalars(self, options: Options) -> dict[str, Initial]:
        return {}

    def constants(self, options: Options) -> dict[str, float]:
        return {}

    def buffers(self, options: Options) -> dict[str, Buffer]:
        return {
            "x0": Buffer(init="param"),
            "largest": Buffer(init=float(options["eps"]), squares=True),
            "wealth": Buffer(init=float(options["first_wealth"]), squares=True),
            "rounds": Buffer(init=1.0, squares=True),
            "coins": Buffer(),
        }

    def coupled_decay(self, options: Options) -> float:
        return float(options["weight_decay"])

    def coefficients(self, options: Options, scalars: Scalars, constants: Mapping[str, float]) -> Coefficients:
        return {"r": options["layer_scale"], "pull": float(options["lr"])}

    def update(self, x: Tensor, g: Tensor, buf: Buffers, c: Coefficients, cut: slice | None) -> tuple[Tensor, ...]:
        largest, wealth, rounds = buf["largest"], buf["wealth"], buf["rounds"]
        torch.maximum(largest, g.abs(), out=largest)
        unit = g / largest
        least = wealth / (rounds + 1)  # what no bet can lose: exact arithmetic never comes near it with lr = 1
        wealth.addcmul_(unit, buf["x0"] - x)
        torch.maximum(wealth, least, out=wealth)
        rounds.add_(g != 0)
        z = buf["coins"].sub_(unit).div(rounds).mul_(wealth).mul_(c["r"]).add_(buf["x0"])
        if c["pull"] == 1:
            x.copy_(z)
        else:
            x.add_(z.sub_(x).mul_(c["pull"]))
        return ()

    def squared(self, g: Tensor, before: Buffers, after: Buffers, c: Coefficients) -> tuple[Tensor, ...]:
        return ()

    def multiplied(self, x: Tensor, buf: Buffers, c: Coefficients) -> tuple[Tensor, ...]:
        """The wealth and the way that multiplies it: both grow with every bet that is won."""
        return buf["wealth"] * c["r"], (x - buf["x0"]).mul_(c["r"])

    def learning_rate(self, options: Options, scalars: Scalars) -> Tensor | float:
        return float("nan")  # there is none
