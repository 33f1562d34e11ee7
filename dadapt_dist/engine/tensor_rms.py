"""The root mean square of every tensor of the model, whole, however it is cut, for methods whose step depends on it."""

from collections.abc import Iterable

import torch
from torch import Tensor

from ..comm.communicator import ShardLayout
from ..sharding.shard_index import ShardIndex


class TensorRms:
    """Σ x² of each tensor: this rank's share, which a step writes anew, and the sum over all ranks, which its reduce brings.

    local: float64 [n_tensors], the weighted sums over the elements that this rank holds. total: the same of all ranks, as
    known before the coming step.
    """

    def __init__(self, shards: ShardIndex, params: Iterable[Tensor], home: torch.device, layout: ShardLayout) -> None:
        """Measure all tensors; a collective call of all ranks: one all-reduce."""
        self.local = torch.zeros(shards.n_tensors, dtype=torch.float64, device=home)
        sizes = torch.zeros_like(self.local)
        for p in {id(p): p for p in params}.values():
            for (place, weight), runs in zip(shards.parts(p), shards.runs(p), strict=True):
                flat = place.part(p).detach().reshape(-1)
                for tensor, start, stop in runs:
                    wide = flat[start:stop].to(device=home, dtype=torch.float64)
                    self.local[tensor] += torch.dot(wide, wide) * weight
                    sizes[tensor] += (stop - start) * weight
        both = torch.cat([self.local, sizes])
        if layout.world_size > 1:
            sent = both.to(layout.reduce_device(home))
            layout.all_reduce(sent).wait()
            both = sent.to(home)
        self.total, sizes = both[: len(sizes)], both[len(sizes) :]
        self._sizes = sizes.clamp_min(1.0)

    def now(self) -> Tensor:
        """float64 [n_tensors], before the coming step."""
        return torch.sqrt(self.total / self._sizes)

    def take(self, squares: Tensor) -> None:
        """Take the global sums of a step, but those that are not finite: ranks that were apart, a tensor that overflowed."""
        squares = squares.to(self.total.device)
        self.total = torch.where(torch.isfinite(squares), squares, self.total)
