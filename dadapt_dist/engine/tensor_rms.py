"""The root mean square of every tensor of the model, whole, however it is cut, for methods whose step depends on it."""

import logging
from collections.abc import Iterable

import torch
from torch import Tensor

from ..comm.communicator import ShardLayout
from ..sharding.replicas import is_readable
from ..sharding.shard_index import ShardIndex

logger = logging.getLogger(__name__)

BLOCK = 1 << 24  # elements that are widened to float64 at a time


class TensorRms:
    """Σ x² of each tensor: this rank's share, which a step writes anew, and the sum over all ranks, which its reduce brings.

    local: float64 [n_tensors], the weighted sums over the elements that this rank holds. total: the same of all ranks, as
    known before the coming step; NaN for a tensor of which some elements were not in memory when it was measured.
    """

    def __init__(self, shards: ShardIndex, params: Iterable[Tensor], home: torch.device, layout: ShardLayout) -> None:
        """Measure all tensors, also frozen ones, which may train later; a collective call of all ranks: one all-reduce."""
        self.local = torch.zeros(shards.n_tensors, dtype=torch.float64, device=home)
        sizes, away = [0.0] * shards.n_tensors, 0
        for p in {id(p): p for p in params if is_readable(p)}.values():
            for (place, weight), runs in zip(shards.parts(p), shards.runs(p), strict=True):
                flat = place.part(p).detach().reshape(-1) if (here := place.is_in_memory(p)) else None
                away += not here
                for tensor, start, stop in runs:
                    sizes[tensor] += (stop - start) * weight
                    squares = torch.nan if flat is None else _sum_of_squares(flat[start:stop]).to(home) * weight
                    self.local[tensor] += squares
        both = torch.cat([self.local, torch.tensor(sizes, dtype=torch.float64, device=home)])
        if layout.world_size > 1:
            sent = both.to(layout.reduce_device(home))
            layout.all_reduce(sent).wait()
            both = sent.to(home)
        self.total, self._sizes = both[: len(sizes)], both[len(sizes) :].clamp_min(1.0)
        if away:
            logger.warning(
                "%d parameters are swapped out (NVMe) as the run starts or goes on, so that their size is not known: their "
                "coming step has no bound. Offload them to the CPU where that matters.",
                away,
            )

    def now(self) -> Tensor:
        """float64 [n_tensors], before the coming step; NaN where it is not known."""
        return torch.sqrt(self.total / self._sizes)

    def take(self, squares: Tensor) -> None:
        """Take the global sums of a step, but those that are not finite: ranks that were apart, a tensor that overflowed."""
        squares = squares.to(self.total.device)
        self.total = torch.where(torch.isfinite(squares), squares, self.total)


def _sum_of_squares(flat: Tensor) -> Tensor:
    """Σ x² of a 1-dim tensor, 0-dim float64 on its device."""
    total = torch.zeros((), dtype=torch.float64, device=flat.device)
    for block in flat.split(BLOCK):
        wide = block.to(torch.float64)
        total += torch.dot(wide, wide)
    return total
