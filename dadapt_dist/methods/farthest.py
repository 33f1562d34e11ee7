"""Methods whose d is the largest root mean square distance from the first weights, η of AdaGrad++ and Adam++."""

from abc import abstractmethod
from collections.abc import Mapping

import torch
from torch import Tensor

from .base import Buffer, Buffers, Coefficients, Initial, Method, Options, Scalars, Sums
from .ops import scratch, total


class FarthestMethod(Method):
    """d = max over the steps of ‖x - x0‖/√p, from d0, with the number p of elements of the estimate (arXiv 2412.19444).

    A subclass defines `own_buffers` and `move`. p is taken once, before the first step, and ‖x - x0‖ with the weights that a
    step has just written, so that the next one has it: neither reduce keeps a step waiting but the first.
    """

    start = Sums(("elements",))
    after = Sums(("dist_sq",), needs="dist_sq")

    @abstractmethod
    def own_buffers(self, options: Options) -> dict[str, Buffer]:
        """As `buffers`, without x0."""

    @abstractmethod
    def move(self, x: Tensor, g: Tensor, buf: Buffers, c: Coefficients) -> None:
        """Advance x and the own buffers in place."""

    def scalars(self, options: Options) -> dict[str, Initial]:
        return {"d": float(options["d0"]), "element_count": 0.0}

    def buffers(self, options: Options) -> dict[str, Buffer]:
        return {"x0": Buffer(init="param", statistic=True), **self.own_buffers(options)}

    def measure_start(self, x: Tensor) -> tuple[Tensor, ...]:
        return (torch.full((), x.numel(), dtype=torch.float64, device=x.device),)

    def fold_start(self, sums: Scalars, scalars: Scalars, constants: Mapping[str, Tensor]) -> Scalars:
        return {"element_count": sums["elements"]}

    def update(self, x: Tensor, g: Tensor, buf: Buffers, c: Coefficients, cut: slice | None) -> tuple[Tensor, ...]:
        self.move(x, g, buf, c)
        if "x0" not in buf:  # frozen
            return ()
        away = torch.sub(x, buf["x0"], out=scratch("product", x))
        return (total(away.to(torch.float64).square()),)

    def fold_after(self, sums: Scalars, scalars: Scalars, constants: Mapping[str, Tensor]) -> Scalars:
        return {"d": torch.maximum(scalars["d"], torch.sqrt(sums["dist_sq"] / scalars["element_count"]))}

    def moved(
        self, d: float, scalars: Mapping[str, float], sums: Mapping[str, float] | None, constants: Mapping[str, float]
    ) -> dict[str, float]:
        if d < scalars["d"] and scalars["k"] > 0:
            raise ValueError(
                f"d={d!r} is below {scalars['d']!r}, the largest distance from the first weights so far, to which d of "
                f"{self.name} may return in its next step. Lower lr instead, which multiplies it."
            )
        return {"d": d}
