"""The average of the weights that DoG and its kin are evaluated at: polynomial decay (Shamir & Zhang, arXiv 1212.1824).

With t = 1, 2, ... the steps in which something moved and γ the option `average`:

    x̄ = x̄ + (1 + γ)/(t + γ)·(x - x̄)

The step after t = 1 sets x̄ to x. Later the weight of the last steps falls as (1 + γ)/t: γ = 0 is the plain mean of all iterates,
and a larger γ forgets the first ones sooner.
"""

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ..options.fields import is_nonnegative, option, optional
from .base import Buffer, Buffers, Coefficients, Initial, Method, Options, Scalars
from .ops import approach_

BUFFER, COUNT = "average", "averaged"
AVERAGE: Any = option(
    None,
    optional,
    lambda value: value is None or is_nonnegative(value),
    "None or a number >= 0",
    "8.0 is that of DoG's paper, and None keeps no average",
    "γ of the average of the weights that eval() shows: 8.0 in DoG's paper. One more buffer; None keeps none",
    later=True,
)


class AveragedMethod(Method):
    """A method whose options may have `average`; without it nothing here does anything, and nothing is kept."""

    fixed_options = ("average",)

    def shared_options(self, options: Options) -> tuple[str, ...]:
        return (*super().shared_options(options), "average")

    @abstractmethod
    def has_moved(self, scalars: Scalars) -> Tensor:
        """Whether the coefficients of these scalars move anything: bool [n_estimates]."""

    def average_scalars(self, options: Options) -> dict[str, Initial]:
        """The scalar that the average needs: t of the steps before."""
        return {} if options.get("average") is None else {COUNT: 0.0}

    def average_buffers(self, options: Options) -> dict[str, Buffer]:
        """The average itself."""
        return {} if options.get("average") is None else {BUFFER: Buffer(init="param", exchanged=True)}

    def average_weight(self, options: Options, scalars: Scalars) -> Coefficients:
        """The weight of the coming x in the average."""
        gamma = options.get("average")
        return {} if gamma is None else {"weight": (1 + gamma) / (scalars[COUNT] + 1 + gamma)}

    def shown(self, options: Options) -> str | None:
        return None if options.get("average") is None else BUFFER

    def rest(self, x: Tensor, buf: Buffers, c: Coefficients) -> None:
        if BUFFER in buf:
            approach_(buf[BUFFER], x, c["weight"])

    def advance(self, scalars: Scalars, constants: Mapping[str, Tensor]) -> Scalars:
        """One clock for the tensors of a model: a step counts if any estimate moves in it."""
        if COUNT not in scalars:
            return super().advance(scalars, constants)
        return {**super().advance(scalars, constants), COUNT: scalars[COUNT] + self.has_moved(scalars).any()}
