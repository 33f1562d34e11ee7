"""What Schedule-Free methods share: gradients are taken at y, between a point z that moves and the average x of its way.

Defazio, Yang, Mehta, Mishchenko, Khaled and Cutkosky, The Road Less Scheduled, arXiv 2405.15682, Algorithm 1:

    y = (1-β)·z + β·x;  z = z - γ·u(y);  x = (1-c)·x + c·z;  c = w/Σw

The parameter holds y, and z is a buffer. x follows from both, or is a buffer too (`keep_average`).
"""

from abc import abstractmethod
from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..options.fields import LR, integer, is_nonnegative, number, numbers, option, switch
from .base import Buffer, Buffers, Coefficients, Initial, Method, Options, Scalars
from .ops import add_

LEAST = 0.01  # of β: x is (y - (1-β)·z)/β, in which β multiplies the rounding of y

# ---------------------------------------------------------------- options

STEP_LR = partial(
    LR,
    cure="the default is {usual}, and 0 keeps a group as it is",
    doc="learning rate, which is not learned; constant after the warm-up, without a scheduler",
)
WARMUP_STEPS = partial(
    option,
    0,
    integer,
    lambda value: 0 <= value <= 2**53,
    "an integer >= 0",
    "2 to 5 % of the run are usual, and 0 is none",
    "steps over which the learning rate rises from 0; they count less in the average",
    of_estimate=True,
)
R = partial(
    option,
    0.0,
    number,
    is_nonnegative,
    "a number >= 0",
    "the default is {usual}: all steps count alike",
    "weight of step k in the average is k to this power",
    of_estimate=True,
)
WEIGHT_LR_POWER = partial(
    option,
    2.0,
    number,
    is_nonnegative,
    "a number >= 0",
    "the default is {usual}",
    "and the largest learning rate so far to this power",
    of_estimate=True,
)
KEEP_AVERAGE = partial(
    switch,
    False,
    "keep x as a buffer: for parameters held in bfloat16 or float16, whose rounding would add up in it",
)


def is_share(value: float) -> bool:
    """Return whether β can be this, the part of x in y."""
    return LEAST <= value < 1


def SHARED_BETAS(default: tuple[float, float]) -> Any:
    """β, the part of x in y, and the averaging constant of the squares."""
    return option(
        default,
        numbers,
        lambda value: len(value) == 2 and is_share(value[0]) and 0 <= value[1] < 1,
        f"2 numbers, the first in [{LEAST}, 1), the second in [0, 1)",
        "use the default, {usual}; with betas[0] = 0 there would be no average to evaluate",
        "part of the average x in y, the point at which gradients are taken, and averaging constant of the squares",
        of_estimate=True,
    )


# ---------------------------------------------------------------- the method


class ScheduleFree(Method):
    """The averages of Schedule-Free; a subclass gives the update u and its learning rate.

    The weights in the average follow from the lr of the estimate, the largest of its groups: where the lr of groups are
    multiples of each other throughout a run, they are those of each group. Groups whose lr go ways of their own can have an
    `estimate` each.
    """

    counts_updates = True
    follows_lr = True
    of_rank = ("rate_max", "weight_sum")

    def scalars(self, options: Options) -> dict[str, Initial]:
        return {"rate_max": 0.0, "weight_sum": 0.0}

    def constants(self, options: Options) -> dict[str, float]:
        named = {"r": float(options["r"]), "weight_lr_power": float(options["weight_lr_power"])}
        return named | {"warm_up": max(1.0, float(options["warmup_steps"]))}

    def shared_options(self, options: Options) -> tuple[str, ...]:
        return (*self.estimate_options, *(name for name in self.fixed_options if name not in self.estimate_options))

    def buffers(self, options: Options) -> dict[str, Buffer]:
        kept = {"z": Buffer(init="param")}
        return kept | {"average": Buffer(init="param")} if options["keep_average"] else kept

    # ---------------------------------------------------------------- what a method defines

    @abstractmethod
    def size(self, scalars: Scalars) -> Tensor | float:
        """What multiplies lr and the warm-up to the learning rate γ of the coming step."""

    @abstractmethod
    def share(self, options: Options, scalars: Scalars, constants: Mapping[str, float]) -> Tensor | float:
        """β of the coming step: the part of x in y."""

    def last_share(self, options: Options, scalars: Scalars, constants: Mapping[str, float]) -> Tensor | float:
        """β of the step before, with which the y of now was made."""
        return self.share(options, scalars, constants)

    # ---------------------------------------------------------------- weights

    def rate(self, scalars: Scalars, lr: Any, warm_up: Any) -> Tensor:
        """γ of the coming step for an lr. warm_up: steps until it is reached, at least 1."""
        rate: Tensor = self.size(scalars) * lr * ((scalars["updates"] + 1) / warm_up).clamp(max=1.0)
        return rate

    def weighed(self, scalars: Scalars, constants: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
        """(the largest γ so far, the weight w of the coming step in the average)."""
        rate = self.rate(scalars, constants["lr"], constants["warm_up"])
        largest = torch.maximum(scalars["rate_max"], rate)
        count: Tensor = (scalars["updates"] + 1) ** constants["r"]
        return largest, count * largest ** constants["weight_lr_power"]

    def part(self, scalars: Scalars, constants: Mapping[str, Any]) -> Tensor:
        """c, the part of the coming z in x; 0 while nothing has a weight."""
        _, weight = self.weighed(scalars, constants)
        whole = scalars["weight_sum"] + weight
        return torch.where(whole > 0, weight / torch.where(whole > 0, whole, 1.0), 0.0)

    def advance(self, scalars: Scalars, constants: Mapping[str, Tensor]) -> Scalars:
        largest, weight = self.weighed(scalars, constants)
        moved = {"rate_max": largest, "weight_sum": scalars["weight_sum"] + weight}
        return super().advance(scalars, constants) | moved

    def learning_rate(self, options: Options, scalars: Scalars) -> Tensor | float:
        rate = self.rate(scalars, float(options["lr"]), max(1, options["warmup_steps"]))
        return rate * float(options["layer_scale"])

    # ---------------------------------------------------------------- a step

    def averaging(self, options: Options, scalars: Scalars, constants: Mapping[str, float]) -> Coefficients:
        """What `move` multiplies by."""
        rate, part = self.rate(scalars, float(options["lr"]), constants["warm_up"]), self.part(scalars, constants)
        share, last = self.share(options, scalars, constants), self.last_share(options, scalars, constants)
        return {
            "to_z": -rate,
            "to_y": rate * (share * (1 - part) - 1),
            "towards": 1 - (1 - part) * (share / last),
            "part": part,
            "rest": 1 - share,
            "out": 1 - 1 / last,
            "back": 1 - last,
        }

    def move(self, x: Tensor, u: Tensor, buf: Buffers, c: Coefficients) -> None:
        """Let z take a step along u, x follow, and the parameter be the y of the next step. u stays as it is.

        Without x this is y + (1 - (1-c)·β/β')·(z - y) + γ·(β·(1-c) - 1)·u, with the z of before, and the β' of the y of before.
        """
        z, average = buf["z"], buf.get("average")
        if average is None:
            add_(x, z - x, c["towards"])
            add_(x, u, c["to_y"])
            add_(z, u, c["to_z"])
            return
        add_(z, u, c["to_z"])
        add_(average, z - average, c["part"])
        x.copy_(average)
        add_(x, z - average, c["rest"])

    def to_eval(self, x: Tensor, buf: Buffers, c: Coefficients) -> None:
        if "average" in buf:
            x.copy_(buf["average"])
        else:
            add_(x, buf["z"] - x, c["out"])

    def to_train(self, x: Tensor, buf: Buffers, c: Coefficients) -> None:
        if "average" in buf:  # x is it, rounded
            x.copy_(buf["average"])
        add_(x, buf["z"] - x, c["back"])
