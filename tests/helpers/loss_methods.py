"""Toy methods that use the loss before a step (Polyak), after it (Damped), or both, each with a naive reference."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dadapt_dist import optimizers
from dadapt_dist.methods import METHODS, Buffer, Documentation, Method
from dadapt_dist.methods.base import Buffers, Coefficients, Initial, Options, Scalars, Sums
from dadapt_dist.methods.ops import add_, total
from dadapt_dist.options.fields import LR, MethodOptions


@dataclass(frozen=True)
class RateOptions(MethodOptions):
    """Options of these methods."""

    lr: float = LR(1.0)


def words(summary: str) -> Documentation:
    return Documentation(summary=summary, when="never: it is a test", reference="none", equations="x = x - rate·lr·g")


class Rate(Method):
    """x = x - rate·lr·g, with the rate of the class; loss: the last mean loss that it saw."""

    options = RateOptions
    estimate_options = ()

    def scalars(self, options: Options) -> dict[str, Initial]:
        return {"rate": 0.0, "seen": 0.0}

    def constants(self, options: Options) -> dict[str, float]:
        return {}

    def buffers(self, options: Options) -> dict[str, Buffer]:
        return {}

    def learning_rate(self, options: Options, scalars: Scalars) -> Any:
        return scalars["rate"] * options["lr"]

    def coefficients(self, options: Options, scalars: Scalars, constants: Any) -> Coefficients:
        return {"rate": scalars["rate"] * options["lr"]}

    def measure_before(self, x: Tensor, g: Tensor, buf: Buffers, c: Coefficients) -> tuple[Tensor, ...]:
        return (total(g.square()),)

    def update(self, x: Tensor, g: Tensor, buf: Buffers, c: Coefficients, cut: slice | None) -> tuple[Tensor, ...]:
        add_(x, g, -c["rate"])
        return () if self.after is None else (total(g.square()),)


class PolyakMethod(Rate):
    """Polyak's step: rate = f/‖g‖², with f and g of the very step."""

    name = "polyak"
    documentation = words("Polyak's step size.")
    before = Sums(("g_sq",), needs="g_sq", loss=True)

    def fold_before(self, sums: Scalars, scalars: Scalars, constants: Any) -> Scalars:
        return {"rate": sums["loss"] / sums["g_sq"], "seen": sums["loss"]}


class DampedMethod(Rate):
    """rate = f/(f + ‖g‖²) with f and g of the step before; 0 at first."""

    name = "damped"
    documentation = words("A step size from the loss of the step before.")
    after = Sums(("g_sq",), loss=True)

    def fold_after(self, sums: Scalars, scalars: Scalars, constants: Any) -> Scalars:
        return {"rate": sums["loss"] / (sums["loss"] + sums["g_sq"]), "seen": sums["loss"]}


class BothMethod(Rate):
    """Polyak's step by half, with the loss at both ends of a step; seen: f after the step, by its name."""

    name = "both"
    documentation = words("Polyak's step size, with the loss before and after.")
    before = Sums(("g_sq",), needs="g_sq", loss=True)
    after = Sums(("g_sq",), loss=True)

    def fold_before(self, sums: Scalars, scalars: Scalars, constants: Any) -> Scalars:
        return {"rate": 0.5 * sums["loss"] / sums["g_sq"]}

    def fold_after(self, sums: Scalars, scalars: Scalars, constants: Any) -> Scalars:
        return {"seen": sums["loss"]}


class EarlyMethod(PolyakMethod):
    """Polyak's step, with sums of after the step that know nothing of the loss."""

    name = "early"
    documentation = words("Polyak's step size, and a sum beside it.")
    after = Sums(("g_sq",))

    def fold_after(self, sums: Scalars, scalars: Scalars, constants: Any) -> Scalars:
        return {}


TOYS: tuple[type[Method], ...] = (PolyakMethod, DampedMethod, BothMethod, EarlyMethod)


def of_toy(name: str) -> Any:
    """The optimizer class of a toy, registered where it is not yet."""
    for toy in TOYS:
        if toy.name not in METHODS:
            optimizers.register(toy)
    return optimizers.of_method(name)


@dataclass
class Reference:
    """The toys on whole tensors, in Python numbers; `lagged`: Polyak with the sums of the step before."""

    name: str
    lagged: bool = False
    rate: float = 0.0
    seen: float = 0.0
    left: tuple[float, float] | None = None

    def step(self, xs: Sequence[Tensor], gradients: Sequence[Tensor], loss: float | None) -> None:
        """Move the tensors; loss: the mean of the step, None where nobody gave one."""
        g_sq = sum(float((g * g).sum()) for g in gradients)
        found = None if loss is None else (loss, g_sq)
        if self.name != "damped":
            share = 0.5 if self.name == "both" else 1.0
            used, self.left = (self.left, found) if self.lagged else (found, None)
            if used is not None:
                self.rate, self.seen = share * used[0] / used[1], used[0]
        with torch.no_grad():
            for x, g in zip(xs, gradients, strict=True):
                x.sub_(g, alpha=self.rate)
        if found is not None and self.name in ("damped", "both"):
            self.seen = found[0]
            if self.name == "damped":
                self.rate = found[0] / (found[0] + g_sq)


__all__ = ["TOYS", "Reference", "of_toy"]
