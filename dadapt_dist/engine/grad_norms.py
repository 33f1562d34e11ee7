"""The norms of a step's gradients, on request: they ride in the reduce of the step, behind its sums."""

import math
from collections.abc import Iterable

import torch
from torch import Tensor

from ..kernels import TensorTask

NAMES = ("grad_norm_l1", "grad_norm")


class GradNorms:
    """‖g‖₁ and ‖g‖₂ of a step, over all tensors that take it on all ranks, as step() finds the gradients.

    These are averaged over the ranks, unscaled, and clipped where their user has done so. local: Σ|g| and Σg² of this rank,
    float64 [2], added up by the pieces of a step, a replica by its share.
    """

    def __init__(self) -> None:
        self.local = torch.zeros(2, dtype=torch.float64, device="cpu")
        self._total: Tensor | None = None

    def begin(self, home: torch.device) -> None:
        """Count a new step."""
        self.local = torch.zeros(2, dtype=torch.float64, device=home)

    def add(self, tasks: Iterable[TensorTask]) -> None:
        """Add the gradients of some tensors. Nobody waits for a device."""
        for task in tasks:
            g = task.g.coalesce().values() if task.g.is_sparse else task.g
            first, second = (torch.linalg.vector_norm(g, order, dtype=torch.float64) for order in (1, 2))
            if task.scale is not None:
                first, second = first / task.scale, second / task.scale
            sums = torch.stack([first, second.square()]) * task.weight
            self.local += sums.to(self.local.device, non_blocking=sums.device.type != "cpu")

    def take(self, total: Tensor, overflows: Tensor | None = None) -> None:
        """Take the sums of all ranks. overflows: 0-dim bool, whether a GradScaler found an overflow; None: nobody looked."""
        self._total = total if overflows is None else torch.where(overflows.to(total.device), math.nan, total)

    def last(self) -> dict[str, float]:
        """The norms of the last step, NaN where a gradient was not finite; {} before the first. Waits for the device."""
        if self._total is None:
            return {}
        first, second = self._total.tolist()
        return dict(zip(NAMES, (first, math.sqrt(second) if second >= 0 else math.nan), strict=True))
