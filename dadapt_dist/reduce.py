"""How do this rank's sums become the sums of all ranks, and when does anybody wait for them?"""

from typing import Any

from torch import Tensor

from .layout import ShardLayout


class Reduce:
    """The one all-reduce of a step. At most one is under way: `launch` comes only after `take`."""

    def __init__(self, layout: ShardLayout) -> None:
        self.layout = layout
        self._pending: tuple[Tensor, Any] | None = None

    @property
    def under_way(self) -> bool:
        """Are there sums that nobody has taken yet?"""
        return self._pending is not None

    def launch(self, sums: Tensor) -> None:
        """Start adding up the ranks' sums; the buffer is not touched until `take`."""
        assert self._pending is None, "the sums of the step before were not taken"
        self._pending = self._start(sums)

    def put(self, sums: Tensor) -> None:
        """Leave global sums that are known already for `take`."""
        assert self._pending is None, "the sums of the step before were not taken"
        self._pending = sums, None

    def take(self) -> Tensor | None:
        """Wait for the sums under way and return them, or None. Calls no collective: one rank alone may take."""
        if self._pending is None:
            return None
        buffer, work = self._pending
        if work is not None:
            work.wait()
        self._pending = None
        return buffer

    def now(self, sums: Tensor) -> Tensor:
        """The global sums at once: a blocking reduce."""
        buffer, work = self._start(sums)
        if work is not None:
            work.wait()
        return buffer.to(sums.device)

    def _start(self, sums: Tensor) -> tuple[Tensor, Any]:
        if self.layout.world_size == 1:
            return sums, None
        buffer = sums.to(self.layout.reduce_device(sums.device))
        return buffer, self.layout.all_reduce(buffer)
