"""COCOB: betting on the outcome of a coin for every weight (Orabona & Tommasi, arXiv 1705.07795, Algorithm 2)."""

from collections.abc import Mapping

import torch
from torch import Tensor

from .base import Buffer, Buffers, Coefficients, Initial, Method, Options, Scalars


class COCOBMethod(Method):
    """Coin betting per coordinate, without a learning rate and without sums: no collective. r = layer_scale.

    L = max(L, |g|);  G = G + |g|;  R = max(R - g·(x - x0), 0);  C = C - g
    z = x0 + r·C/(L·max(G + L, alpha·L))·(L + R);  x = x + lr·(z - x)
    """

    name = "cocob"
    estimate_options = ()

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
        bet = buf["coins"].sub_(g) / largest  # divided one after the other: the product of both may be too large
        bet.div_(torch.maximum(total + largest, largest * c["alpha"])).mul_(largest + reward).mul_(c["r"]).add_(
            buf["x0"]
        )
        if c["pull"] == 1:
            x.copy_(bet)
        else:
            x.add_(bet.sub_(x).mul_(c["pull"]))
        return ()

    def squared(self, g: Tensor, before: Buffers, after: Buffers, c: Coefficients) -> tuple[Tensor, ...]:
        return ()

    def learning_rate(self, options: Options, scalars: Scalars) -> Tensor | float:
        return float("nan")  # there is none
