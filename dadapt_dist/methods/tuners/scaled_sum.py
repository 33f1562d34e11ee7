"""What Mechanic and TRAC share: the weights are x0 - S·Δ, Δ the sum of all updates, and S what the tuner learns."""

import math
from abc import abstractmethod
from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from ...options.fields import LR, is_positive, number, option, text
from ..base import Buffer, Buffers, Coefficients, Initial, Options, Scalars
from ..directed import DirectedMethod
from ..ops import add_

BETTORS = 6
"""How many bets with different memories are added up to S."""
LEAST = 1e-300
"""The S that stands for 0: checkpoints and logs take a d for a number above 0."""
STORED, RECOMPUTED, SUMMED = "stored", "recomputed", "summed"
"""How Δ is known: kept with the numbers of the second, worked out from x, or kept as the plain sum."""
S_INIT_CURE = "use the default, {usual}: S grows from there by itself"


def S_INIT(default: float | None, allowed: str, read: object = number) -> float:
    """The first S."""
    made: float = option(
        default,
        read,  # type: ignore[arg-type]
        lambda value: value is None or is_positive(value),
        allowed,
        S_INIT_CURE,
        "first S; it only has to be smaller than the S to be found",
        of_estimate=True,
    )
    return made


def S_MAX() -> float:
    """The cap."""
    made: float = option(
        math.inf,
        number,
        lambda value: value > 0,
        "a number > 0, or inf",
        "inf sets no bound",
        "largest S",
        of_estimate=True,
    )
    return made


def S_EPS() -> float:
    """What denominators are kept from 0 by."""
    made: float = option(
        1e-8,
        number,
        is_positive,
        "a number > 0",
        "use the default, {usual}",
        "added to denominators of the rule of S, for numerical stability",
        of_estimate=True,
    )
    return made


def DELTA() -> str:
    """How Δ is known."""
    words = (STORED, RECOMPUTED, SUMMED)
    made: str = option(
        STORED,
        text,
        lambda value: value in words,
        "'stored', 'recomputed' or 'summed'",
        "use the default, {usual}",
        "how Δ is known: 'stored' in a buffer with the numbers of 'recomputed', which is (x0 - x)/(S + s_eps), one buffer "
        "less, for weights in float32 or wider; 'summed' in a buffer as the plain sum of the updates",
        of_estimate=True,
    )
    return made


def LR_OF_UPDATE() -> float:
    """What multiplies u."""
    made: float = LR(1.0, doc="multiplies the direction's update. Leave its peak at 1.0 and let a schedule shape it")
    return made


class ScaledSum(DirectedMethod):
    """A method whose weights are x0 - S·Δ, with Δ the sum of the direction's updates times lr·r, and S its d.

    A subclass declares the scalars of its bets beside those of `scalars`, the sums, of which the first is <g, Δ>, and
    their fold. What is learned is a number for each estimate, the same on all ranks.
    """

    fixed_options: ClassVar[tuple[str, ...]] = ("delta",)
    proportional: ClassVar[tuple[str, ...]] = ("scale_unit",)
    """The scalars that S is proportional to."""

    @abstractmethod
    def first_scale(self, options: Options) -> float:
        """The S of the first step that has a gradient, without the cap."""

    @abstractmethod
    def scale_unit(self, options: Options) -> float:
        """What S is proportional to: the option s_init."""

    @abstractmethod
    def whole(self, scalars: Scalars, constants: Mapping[str, Tensor]) -> Tensor:
        """S without the cap, from the scalars of its bets: float64 [n_estimates]; 0 or less where they are on nothing yet."""

    # ---------------------------------------------------------------- scalars

    def scalars(self, options: Options) -> dict[str, Initial]:
        """d is S. d_before: the S with which x was made. scale_unit: s_init, times what users have changed d by."""
        first = min(self.first_scale(options), float(options["s_max"]))
        return {"d": first, "d_before": first, "scale_unit": self.scale_unit(options)}

    def constants(self, options: Options) -> dict[str, float]:
        return {"s_eps": float(options["s_eps"]), "s_max": float(options["s_max"])}

    def advance(self, scalars: Scalars, constants: Mapping[str, Tensor]) -> Scalars:
        return super().advance(scalars, constants) | {"d_before": scalars["d"].clone()}

    def moved(
        self, d: float, scalars: Mapping[str, float], sums: Mapping[str, float] | None, constants: Mapping[str, float]
    ) -> dict[str, float]:
        """All that S is proportional to, so that it goes on from d."""
        if d > constants["s_max"]:
            raise ValueError(f"d={d!r} is above s_max={constants['s_max']!r}, the largest S. Raise s_max, or lower d.")
        if scalars["d"] <= LEAST:
            raise ValueError(
                f"d={d!r} cannot be set while S of {self.name} is 0, for it then bets on nothing, and the weights are where they "
                "began. Set it when S is above 0, or build the optimizer anew with s_init."
            )
        whole = float(self.whole(_rows(scalars), _rows(constants)))
        share = d / (whole if whole > scalars["d"] else scalars["d"])  # it may be above the cap
        return {"d": d} | {name: _times(scalars[name], share) for name in self.proportional}

    # ---------------------------------------------------------------- tensors

    def narrow_weights(self, options: Options) -> str | None:
        if options["delta"] != RECOMPUTED:
            return None
        return (
            f"delta={RECOMPUTED!r} takes Δ from x0 - x, which is 0 there for as long as S·Δ is below the last digit of a weight. "
            f"Use delta={STORED!r}, which keeps Δ in float32, or train float32 weights under autocast"
        )

    def own_buffers(self, options: Options) -> dict[str, Buffer]:
        kept = {} if options["delta"] == RECOMPUTED else {"delta": Buffer()}
        return {"x0": Buffer(init="param"), **kept}

    def own_coefficients(self, options: Options, scalars: Scalars, constants: Mapping[str, float]) -> Coefficients:
        known = scalars["d_before"] + constants["s_eps"]
        stays = 1.0 if options["delta"] == SUMMED else scalars["d_before"] / known
        return {"scale": scalars["d"], "along": self.along(options), "known": known, "stays": stays}

    def along(self, options: Options) -> float:
        """What the direction's update is multiplied by."""
        return float(options["lr"]) * float(options["layer_scale"])

    def sum_before(self, x: Tensor, buf: Buffers, c: Coefficients) -> Tensor:
        """Δ of before the step, a tensor of its own."""
        return buf["delta"] * c["stays"] if "delta" in buf else (buf["x0"] - x).div_(c["known"])

    def move(
        self, x: Tensor, g: Tensor, u: Tensor, buf: Buffers, c: Coefficients, cut: slice | None
    ) -> tuple[Tensor, ...]:
        delta = buf["delta"].mul_(c["stays"]) if "delta" in buf else self.sum_before(x, buf, c)
        add_(delta, u, c["along"])
        x.copy_(add_(buf["x0"].clone(), delta, -c["scale"]))
        return ()

    def multiplied(self, x: Tensor, buf: Buffers, c: Coefficients) -> tuple[Tensor, ...]:
        own = (buf["delta"],) if "delta" in buf else (x, buf["x0"])
        return (*super().multiplied(x, buf, c), *own)


def betas_of(like: Tensor) -> Tensor:
    """0.9, 0.99, ... as like: float64 [BETTORS]."""
    return 1 - 0.1 ** torch.arange(1, BETTORS + 1, dtype=torch.float64, device=like.device)


def _rows(values: Mapping[str, float]) -> Scalars:
    """Values of one estimate as those of a list of one."""
    return {name: torch.tensor([value], dtype=torch.float64, device="cpu") for name, value in values.items()}


def _times(value: float | tuple[float, ...], share: float) -> float:
    """A scalar, or each entry of a vector, times a share."""
    return tuple(part * share for part in value) if isinstance(value, tuple) else value * share  # type: ignore[return-value]
