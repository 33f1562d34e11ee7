"""Adam's metric D = √(v/(1 - b2^t)) + eps, which methods measure gradients in before they take a step along them."""

import torch
from torch import Tensor

from .base import Buffers, Coefficients, Options, Scalars
from .ops import add_product_

SQUARES = "exp_avg_sq"


def metric_coefficients(options: Options, scalars: Scalars) -> Coefficients:
    """Of v and D in the coming step. scalars["updates"]: the steps before it."""
    beta2 = options["betas"][1]
    root_v_hat = torch.rsqrt(1 - beta2 ** (scalars["updates"] + 1))
    return {"b2": beta2, "to_v": 1 - beta2, "root_v_hat": root_v_hat, "eps": float(options["eps"])}


def advanced(g: Tensor, buf: Buffers, c: Coefficients) -> Tensor:
    """Take g into v, in place; return D, in memory of its own."""
    return _root(add_product_(buf[SQUARES].mul_(c["b2"]), g, g, c["to_v"]), c)


def foreseen(g: Tensor, buf: Buffers, c: Coefficients) -> Tensor:
    """D as `advanced` will give it, with v as it is."""
    return _root(add_product_(buf[SQUARES] * c["b2"], g, g, c["to_v"]), c)


def _root(v: Tensor, c: Coefficients) -> Tensor:
    return torch.sqrt(v).mul_(c["root_v_hat"]).add_(c["eps"])
