"""COCOB: betting on the outcome of a coin for every weight (Orabona & Tommasi, arXiv 1705.07795, Algorithm 2)."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ..options.fields import EPS, LR, WEIGHT_DECAY, MethodOptions, is_positive, number, option
from .base import Buffer, Buffers, Coefficients, Documentation, Initial, Method, Options, Scalars


@dataclass(frozen=True)
class COCOBOptions(MethodOptions):
    """Options of `COCOB`."""

    lr: float = LR(1.0, doc="part of each step that is taken; 1.0 is the method, a schedule may shape it")
    alpha: float = option(
        100.0,
        number,
        is_positive,
        "a number > 0",
        "use the default, {usual}",
        "bets of the first steps are at most 1/alpha of the wealth",
    )
    eps: float = EPS(1e-8, doc="first value of the largest gradient L")
    weight_decay: float = WEIGHT_DECAY(0.0, doc="decay, added to the gradient as weight_decay·x")


class COCOBMethod(Method):
    """Coin betting per coordinate, without a learning rate and without sums."""

    options = COCOBOptions
    documentation = Documentation(
        summary="Coin betting: every weight bets on the sign of its gradient.",
        when="no learning rate, no d and no collective; five buffers a parameter",
        reference="Orabona and Tommasi, Training Deep Networks without Learning Rates, arXiv 1705.07795, Algorithm 2",
        equations="""
            update  L = max(L, |g|);  G = G + |g|;  R = max(R - g·(x - x0), 0);  C = C - g
                    z = x0 + r·C/(L·max(G + L, alpha·L))·(L + R);  x = x + lr·(z - x)
        """,
        notes="""
            Each weight has its own bet, so there are no sums: `optimizer.d` is NaN.
        """,
    )

    name = "cocob"

    def scalars(self, options: Options) -> dict[str, Initial]:
        return {}

    def constants(self, options: Options) -> dict[str, float]:
        return {}

    def buffers(self, options: Options) -> dict[str, Buffer]:
        return {
            "x0": Buffer(init="param"),
            "largest": Buffer(init=float(options["eps"]), squares=True),
            "total": Buffer(squares=True),
            "reward": Buffer(squares=True),
            "coins": Buffer(),
        }

    def coupled_decay(self, options: Options) -> float:
        return float(options["weight_decay"])

    def coefficients(self, options: Options, scalars: Scalars, constants: Mapping[str, float]) -> Coefficients:
        return {"alpha": options["alpha"], "r": options["layer_scale"], "pull": float(options["lr"])}

    def update(self, x: Tensor, g: Tensor, buf: Buffers, c: Coefficients, cut: slice | None) -> tuple[Tensor, ...]:
        size = g.abs()
        largest, total = buf["largest"], buf["total"].add_(size)
        torch.maximum(largest, size, out=largest)
        reward = buf["reward"].addcmul_(g, x - buf["x0"], value=-1).clamp_(min=0)
        # All in units of the largest gradient, of which no multiple need be finite.
        bet = buf["coins"].sub_(g) / largest
        bet.div_((total / largest).add_(1).clamp_(min=c["alpha"])).mul_((reward / largest).add_(1)).mul_(c["r"])
        bet.add_(buf["x0"])
        if c["pull"] == 1:
            x.copy_(bet)
        else:
            x.add_(bet.sub_(x).mul_(c["pull"]))
        return ()

    def squared(self, g: Tensor, before: Buffers, after: Buffers, c: Coefficients) -> tuple[Tensor, ...]:
        return ()

    def multiplied(self, x: Tensor, buf: Buffers, c: Coefficients) -> tuple[Tensor, ...]:
        """The wealth in units of the largest gradient, and the way that multiplies it: both grow with every bet that is won."""
        return (buf["reward"] / buf["largest"]).mul_(c["r"]), (x - buf["x0"]).mul_(c["r"])

    def learning_rate(self, options: Options, scalars: Scalars) -> Tensor | float:
        return float("nan")  # there is none
