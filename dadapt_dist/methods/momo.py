"""MoMo: momentum with a step size from a model of the loss (Schaipp et al., arXiv 2305.07583; released as momo-opt)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..options.fields import LR, MOMENTUM, WEIGHT_DECAY, MethodOptions, switch
from .base import Buffer, Buffers, Coefficients, Documentation, Initial, Method, Options, Scalars, Sums
from .ngn import CAP, LOWER_BOUND, SCHEDULED, cap_of
from .ops import add_, total


@dataclass(frozen=True)
class MoMoOptions(MethodOptions):
    """Options of `MoMo`."""

    lr: float = LR(1.0, cure=SCHEDULED, doc="multiplies cap. Leave it at 1.0; a schedule may shape it")
    cap: float = CAP(1.0)
    weight_decay: float = WEIGHT_DECAY(0.0, doc="decay, by which a step divides the parameters: 1 + weight_decay·c")
    beta: float = MOMENTUM(0.9, doc="averaging constant of gradient and loss", of_estimate=True)
    lb: float = LOWER_BOUND(0.0)
    use_bias_correction: bool = switch(
        False, "averages that begin at 0, corrected; False: at the first loss and gradient"
    )


class MoMoMethod(Method):
    """Averaged gradients, and the step at whose end a model of the averaged loss reaches its lower bound.

    model: what the model foretells for the end of the step. share: the part of c that the step takes. weight: Σ of the weights
    of the averages, 1 - beta^t with bias correction.
    """

    options: ClassVar[type[MethodOptions]] = MoMoOptions
    documentation = Documentation(
        summary="SGD with momentum whose step size follows from a model of the loss.",
        when="models that train well with SGD, without a search for lr; needs the loss in every step",
        reference="Schaipp, Ohana, Eickenberg, Defazio and Gower, MoMo, arXiv 2305.07583, Algorithms 1 and 3",
        equations="""
            before  m' = beta·m + (1-beta)·g, in the first step g;  c = r·lr·cap
                    norm = Σ c/(1 + wd·c)·m'²;  drop = Σ wd·c/(1 + wd·c)·m'·x
                    h = beta·model + (1-beta)·f, in the first step f
                    share = min(1, max(0, h - drop - lb)/norm);  model = h - drop - share·norm
            update  m = m';  x = (x - c·share·m)/(1 + wd·c)
        """,
        notes="""
            f is the loss of the step. h is the average of all losses so far, each continued linearly along its gradient to the
            present weights; that is the paper's f̄ + ⟨d, x⟩ - γ, without a sum for γ. One blocking reduce a step, or,
            with before="lagged", one that is hidden and whose share counts in the next step. Groups share one model, in which
            each counts by its c. There is no d: `optimizer.d` is NaN, and `effective_lr` is c·share.
        """,
    )

    name = "momo"
    before = Sums(("norm", "drop"), needs="norm", loss=True)
    polynomial_before: ClassVar[bool] = True
    counts_updates = True
    least_loss = "lb"
    estimate_options: ClassVar[tuple[str, ...]] = ("beta", "lb", "use_bias_correction")

    def averaging(self, options: Options) -> tuple[float, bool]:
        """The constant of the averages, and whether they are corrected for their beginning at 0."""
        if "betas" in options:  # Adam's
            return float(options["betas"][0]), True
        return float(options["beta"]), bool(options["use_bias_correction"])

    def scalars(self, options: Options) -> dict[str, Initial]:
        return {"share": 0.0, "model": 0.0, "weight": 0.0}

    def constants(self, options: Options) -> dict[str, float]:
        beta, corrects = self.averaging(options)
        return {"lb": float(options["lb"]), "beta": beta, "corrects": float(corrects)}

    def buffers(self, options: Options) -> dict[str, Buffer]:
        return {"exp_avg": Buffer()}

    def coefficients(self, options: Options, scalars: Scalars, constants: Mapping[str, float]) -> Coefficients:
        (beta, corrects), before = self.averaging(options), scalars["updates"]
        largest = cap_of(options)
        decay = float(options["weight_decay"]) * largest
        b1 = beta if corrects else beta * (before > 0).to(torch.float64)
        return {
            "b1": b1, "to_m": 1 - b1, "m_hat": 1 / (1 - beta ** (before + 1)) if corrects else 1.0,
            "rate": self.learning_rate(options, scalars),
            "largest": largest / (1 + decay), "decay": decay / (1 + decay),
            "keep": 1 / (1 + decay) if decay else None,
        }  # fmt: skip

    def learning_rate(self, options: Options, scalars: Scalars) -> Tensor | float:
        return scalars["share"] * cap_of(options)

    def measure_before(self, x: Tensor, g: Tensor, buf: Buffers, c: Coefficients) -> tuple[Tensor, ...]:
        m = add_(buf["exp_avg"] * c["b1"], g, c["to_m"]).mul_(c["m_hat"])
        drop = total(m * x) * c["decay"] if c["keep"] is not None else torch.zeros_like(m.sum())
        return total(self.along(m, g, buf, c) * m) * c["largest"], drop

    def along(self, m: Tensor, g: Tensor, buf: Buffers, c: Coefficients) -> Tensor:
        """The direction of the coming step, D⁻¹m, whose buffers stay as they are."""
        return m

    def fold_before(self, sums: Scalars, scalars: Scalars, constants: Mapping[str, Tensor]) -> Scalars:
        beta, begun = constants["beta"], scalars["weight"] > 0
        weight = torch.maximum(beta * scalars["weight"] + (1 - beta), 1 - constants["corrects"])
        new = (1 - beta) / weight  # the weight of this loss among all
        new = new + (1 - new) * (~begun).to(new.dtype)
        height = (1 - new) * scalars["model"] + new * sums["loss"] - sums["drop"]
        share = ((height - constants["lb"]) / sums["norm"]).clamp(0.0, 1.0)
        return {"share": share, "model": height - share * sums["norm"], "weight": weight}

    def update(self, x: Tensor, g: Tensor, buf: Buffers, c: Coefficients, cut: slice | None) -> tuple[Tensor, ...]:
        m = add_(buf["exp_avg"].mul_(c["b1"]), g, c["to_m"])
        self.go(x, m, g, buf, c)
        if c["keep"] is not None:
            x.mul_(c["keep"])
        return ()

    def go(self, x: Tensor, m: Tensor, g: Tensor, buf: Buffers, c: Coefficients) -> None:
        """Take the step with m, in place; buffers other than m advance."""
        add_(x, m, -c["rate"] * c["m_hat"])
