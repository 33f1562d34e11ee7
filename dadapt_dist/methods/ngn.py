"""NGN: step sizes from the loss and the norm of its gradient (arXiv 2407.04358), with momentum and Adam's metric (2508.15071)."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

from torch import Tensor

from ..options.fields import BETAS, EPS, LR, WEIGHT_DECAY, MethodOptions, is_positive, number, option, switch
from .adam_metric import SQUARES, advanced, foreseen, metric_coefficients
from .base import Buffer, Buffers, Coefficients, Documentation, Initial, Method, Options, Scalars, Sums
from .ops import add_, total

LOWER_BOUND = partial(
    option,
    read=number,
    right=math.isfinite,
    allowed="a finite number",
    cure="the default, {usual}, suits every loss that is never negative",
    doc="value below which the mean loss of a step never falls",
    of_estimate=True,
)

SCHEDULED = "leave lr=1.0: it multiplies cap, the largest step size, and a schedule scales it"
CAP = partial(
    option,
    read=number,
    right=is_positive,
    allowed="a number > 0",
    cure="use the default, {usual}, and let lr shape it",
    doc="largest step size, where lr is 1",
)


def cap_of(options: Options) -> float:
    """The largest step size of a group in the coming step."""
    return float(options["lr"]) * float(options["cap"]) * float(options["layer_scale"])


@dataclass(frozen=True)
class NGNOptions(MethodOptions):
    """Options of `NGN`."""

    lr: float = LR(1.0, cure=SCHEDULED, doc="multiplies cap. Leave it at 1.0 and let a schedule shape it")
    cap: float = CAP(1.0, doc="largest step size, the paper's c, where lr is 1")
    betas: tuple[float, float] = BETAS(
        (0.9, 0.999), "weight of the step before, averaging constant of squared gradients"
    )
    eps: float = EPS(1e-8)
    weight_decay: float = WEIGHT_DECAY(0.0, doc="decay of the parameters themselves, by weight_decay·c·share a step")
    lb: float = LOWER_BOUND(0.0)
    precondition: bool = switch(True, "divide by the root of averaged squares, as Adam; False: NGN-M, a buffer less")


class NGNMethod(Method):
    """Momentum with a step size that the loss bounds; share is the part of the largest that a step takes."""

    options = NGNOptions
    documentation = Documentation(
        summary="Adam with momentum whose step size follows from the loss.",
        when="a loss with a known lower bound and no time to choose lr; needs the loss in every step",
        reference="Orvieto and Xiao, arXiv 2407.04358; NGN-MDv1 and NGN-M of Islamov et al., arXiv 2508.15071",
        equations="""
            before  v' = b2·v + (1-b2)·g²;  D = √(v'/(1-b2^t)) + eps;  c = r·lr·cap;  G = Σ c·g²/D
                    share = 2(f - lb)/(2(f - lb) + G),  0 where f <= lb
            update  v = v';  m = b1·m + (1-b1)·c·share·g/D;  x = x·(1 - wd·c·share) - m
        """,
        notes="""
            f is the loss of the step, G and share are those of the very step: one blocking reduce a step, or, with
            before="lagged", those of the step before, hidden. With one c for all groups c·share is the paper's
            γ = c/(1 + c/(2f)·‖g‖²), measured in D; several groups share one G, in which each counts by its c. With
            precondition=False, D = 1. There is no d: `optimizer.d` is NaN, and `effective_lr` is c·share. A schedule that
            decays to 0 matters: without one the method is clearly worse.
        """,
    )

    name = "ngn"
    before = Sums(("g_sq",), needs="g_sq", loss=True)
    counts_updates = True
    least_loss = "lb"
    estimate_options = ("lb", "precondition")
    fixed_options = ("precondition",)

    def scalars(self, options: Options) -> dict[str, Initial]:
        return {"share": 0.0}

    def constants(self, options: Options) -> dict[str, float]:
        return {"lb": float(options["lb"])}

    def buffers(self, options: Options) -> dict[str, Buffer]:
        moved = {"momentum": Buffer()}
        return moved | {SQUARES: Buffer(squares=True)} if options["precondition"] else moved

    def coefficients(self, options: Options, scalars: Scalars, constants: Mapping[str, float]) -> Coefficients:
        rate, decay = self.learning_rate(options, scalars), float(options["weight_decay"])
        metric = metric_coefficients(options, scalars) if options["precondition"] else {}
        return metric | {
            "b1": options["betas"][0],
            "to_m": rate * (1 - options["betas"][0]),
            "keep": 1 - rate * decay if decay else None,
            "cap": cap_of(options),
        }

    def learning_rate(self, options: Options, scalars: Scalars) -> Tensor | float:
        return scalars["share"] * cap_of(options)

    def measure_before(self, x: Tensor, g: Tensor, buf: Buffers, c: Coefficients) -> tuple[Tensor, ...]:
        squares = g.square()
        return (total(squares.div_(foreseen(g, buf, c)) if SQUARES in buf else squares) * c["cap"],)

    def fold_before(self, sums: Scalars, scalars: Scalars, constants: Mapping[str, Tensor]) -> Scalars:
        room = 2 * (sums["loss"] - constants["lb"]).clamp_min(0.0)
        return {"share": room / (room + sums["g_sq"])}

    def update(self, x: Tensor, g: Tensor, buf: Buffers, c: Coefficients, cut: slice | None) -> tuple[Tensor, ...]:
        along = advanced(g, buf, c).reciprocal_().mul_(g) if SQUARES in buf else g
        momentum = add_(buf["momentum"].mul_(c["b1"]), along, c["to_m"])
        if c["keep"] is not None:
            x.mul_(c["keep"])
        x.sub_(momentum)
        return ()
