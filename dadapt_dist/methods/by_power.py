"""Split the sums that a method takes before the weights move by the power of the gradient in them.

Such a sum is P(t) = a + b·t + c·t² where t times the gradient is taken, t >= 0, for a method that says so
(`Method.polynomial_before`). The three numbers are those of the plain sums with the gradient, half of it, and none:

    a = P(0);  b = 4·P(1/2) - P(1) - 3·P(0);  c = 2·P(1) - 4·P(1/2) + 2·P(0)

A sum of one power alone is that power's to the last bit, since halves and their differences are exact. Else the three are as
exact as P(1) is, whichever of them is the largest: take them with a gradient of about the size that is asked for. P(1) comes
with them, for where nothing else is asked for.
"""

import functools
from typing import Any, ClassVar, cast

import torch
from torch import Tensor

from .base import Buffers, Coefficients, Method, Sums

PARTS = 4
"""What there is of each sum: P(1), a, b and c, in this order, of all sums each."""
DECAY = "coupled decay"
"""The coefficient that `measure_before` needs beside the method's: `Method.coupled_decay` of the group, or None for 0."""


class _ByPower(Method):
    """The part of it that is not the method's: a step that does nothing, and its sums in parts."""

    after: ClassVar[Sums | None] = None

    def update(self, x: Tensor, g: Tensor, buf: Buffers, c: Coefficients, cut: slice | None) -> tuple[Tensor, ...]:
        return ()

    def squared(self, g: Tensor, before: Buffers, after: Buffers, c: Coefficients) -> tuple[Tensor, ...]:
        return ()

    def multiplied(self, x: Tensor, buf: Buffers, c: Coefficients) -> tuple[Tensor, ...]:
        return ()

    def measure_before(self, x: Tensor, g: Tensor, buf: Buffers, c: Coefficients) -> tuple[Tensor, ...]:
        measured = super().measure_before
        rest = torch.zeros_like(g) if c[DECAY] is None else x * c[DECAY]  # g has it in it already
        whole, half, none = measured(x, g, buf, c), measured(x, (g + rest) * 0.5, buf, c), measured(x, rest, buf, c)
        first = [4 * h - w - 3 * n for w, h, n in zip(whole, half, none, strict=True)]
        second = [2 * w - 4 * h + 2 * n for w, h, n in zip(whole, half, none, strict=True)]
        return (*whole, *none, *first, *second)


def by_power(method: Method) -> Method:
    """What measures the PARTS of each `before` sum of a method, in the place of the sum. A step of it does nothing.

    Example:
        >>> from dadapt_dist.methods import METHODS
        >>> len(METHODS["dog"].before.names), len(by_power(METHODS["dog"]()).before.names)
        (2, 8)
    """
    made = _class(type(method))()
    vars(made).update(vars(method))
    return made


def extra(method: Method) -> int:
    """How many sums more the split method has."""
    return 0 if method.before is None else (PARTS - 1) * len(method.before.names)


def powers(device: torch.device) -> Tensor:
    """The power of the gradient in each of the parts, float64 [PARTS, 1]: 0 for P(1), which is used for the gradient as it is."""
    return torch.arange(-1.0, PARTS - 1, dtype=torch.float64, device=device).clamp(min=0).view(-1, 1)


@functools.cache
def _class(method: type[Method]) -> type[Method]:
    assert method.before is not None, "nobody splits what is not there"
    names = [f"{name}{part}" for part in ("", ", a", ", b", ", c") for name in method.before.names]
    of_class: dict[str, Any] = {"before": Sums(tuple(names)), "__module__": __name__, "__doc__": _ByPower.__doc__}
    return cast(type[Method], type(f"{method.__name__}ByPower", (_ByPower, method), of_class))
