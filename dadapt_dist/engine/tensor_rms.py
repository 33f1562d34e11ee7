"""The root mean square of every tensor of the model, whole, however it is cut, for methods whose step depends on it."""

import logging
from collections.abc import Iterable

import torch
from torch import Tensor

from ..comm.communicator import ShardLayout
from ..kernels.eager import sum_of_squares
from ..sharding.replicas import is_readable
from ..sharding.shard_index import ShardIndex

logger = logging.getLogger(__name__)


class TensorRms:
    """Σ x² of each tensor: this rank's share, which a step writes anew, and the sum over all ranks, which its reduce brings.

    local: float64 [n_tensors], the weighted sums over the elements that this rank holds. total: the same of all ranks, as
    known before the coming step; NaN for a tensor of which some elements were not in memory when it was measured.
    """

    def __init__(
        self,
        shards: ShardIndex,
        params: Iterable[Tensor],
        home: torch.device,
        layout: ShardLayout,
        reduce: slice,
        width: int,
    ) -> None:
        """Measure all tensors, also frozen ones, which may train later; a collective call of all ranks: two all-reduces.

        reduce, width: where the squares are in the reduce of a step, and how many numbers that has: in one of the same form they
        are added up in the same order, so that a run that is resumed goes on to the bit.
        """
        self.local = torch.zeros(shards.n_tensors, dtype=torch.float64, device=home)
        sizes, away = [0.0] * shards.n_tensors, 0
        for p in {id(p): p for p in params if is_readable(p)}.values():
            for (place, weight), runs in zip(shards.parts(p), shards.runs(p), strict=True):
                away += not place.is_in_memory(p)
                for tensor, start, stop in runs:
                    sizes[tensor] += (stop - start) * weight
            self.measure_again(shards, p)
        form = torch.zeros(width, dtype=torch.float64, device=home)
        form[reduce] = self.local
        self.total = _added_up(form, layout)[reduce]
        self._sizes = _added_up(torch.tensor(sizes, dtype=torch.float64, device=home), layout).clamp_min(1.0)
        if away:
            logger.warning(
                "%d parameters are swapped out (NVMe) as the run starts or goes on, so that their size is not known: their "
                "coming step has no bound. Offload them to the CPU where that matters.",
                away,
            )

    def measure_again(self, shards: ShardIndex, p: Tensor) -> None:
        """Write this rank's share of one parameter."""
        shares: dict[int, Tensor] = {}
        for (place, weight), runs in zip(shards.parts(p), shards.runs(p), strict=True):
            flat = place.part(p).detach().reshape(-1) if place.is_in_memory(p) else None
            for tensor, start, stop in runs:
                found = torch.nan if flat is None else sum_of_squares(flat[start:stop])
                share = torch.as_tensor(found, dtype=torch.float64).to(self.local.device, non_blocking=True) * weight
                shares[tensor] = shares[tensor] + share if tensor in shares else share
        for tensor, share in shares.items():
            self.local[tensor] = share

    def now(self) -> Tensor:
        """float64 [n_tensors], before the coming step; NaN where it is not known."""
        return torch.sqrt(self.total / self._sizes)

    def overall(self) -> Tensor:
        """The root mean square of all elements of the model, 0-dim float64."""
        return torch.sqrt(self.total.sum() / self._sizes.sum())

    def take(self, squares: Tensor) -> None:
        """Take the global sums of a step, but those that are not finite: ranks that were apart, a tensor that overflowed."""
        squares = squares.to(self.total.device)
        self.total = torch.where(torch.isfinite(squares), squares, self.total)


def _added_up(numbers: Tensor, layout: ShardLayout) -> Tensor:
    """The sums over all ranks."""
    if layout.world_size == 1:
        return numbers
    sent = numbers.to(layout.reduce_device(numbers.device))
    layout.all_reduce(sent).wait()
    return sent.to(numbers.device)
