"""What DoG and DoWG share: SGD whose step size is made of ‖x - x0‖ and ‖g‖, both known before the weights move."""

from collections.abc import Mapping

from torch import Tensor

from .base import Buffer, Buffers, Coefficients, Options, Scalars
from .ops import add_, total
from .weight_average import AveragedMethod


class DistanceMethod(AveragedMethod):
    """x = x - rate·g. A subclass declares the sums "dist_sq" and "g_sq" of `before`, folds them, and gives the learning rate."""

    polynomial_before = True

    def buffers(self, options: Options) -> dict[str, Buffer]:
        return {"x0": Buffer(init="param", statistic=True)} | self.average_buffers(options)

    def coupled_decay(self, options: Options) -> float:
        return float(options["weight_decay"])

    def measure_before(self, x: Tensor, g: Tensor, buf: Buffers, c: Coefficients) -> tuple[Tensor, ...]:
        return total((x - buf["x0"]).square()), total(g.square())

    def coefficients(self, options: Options, scalars: Scalars, constants: Mapping[str, float]) -> Coefficients:
        return {"rate": self.learning_rate(options, scalars)} | self.average_weight(options, scalars)

    def update(self, x: Tensor, g: Tensor, buf: Buffers, c: Coefficients, cut: slice | None) -> tuple[Tensor, ...]:
        add_(x, g, -c["rate"])
        self.rest(x, buf, c)
        return ()

    def moved(
        self, d: float, scalars: Mapping[str, float], sums: Mapping[str, float] | None, constants: Mapping[str, float]
    ) -> dict[str, float]:
        if d < scalars["d"] and scalars["k"] > 0:
            raise ValueError(
                f"d={d!r} is below {scalars['d']!r}, the largest distance from the first weights so far, to which d of "
                f"{self.name} returns in its next step. Lower lr instead, which multiplies it."
            )
        return {"d": d}
