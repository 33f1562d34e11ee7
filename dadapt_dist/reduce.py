"""How do this rank's sums become the sums of all ranks, and when does anybody wait for them?"""

import atexit
import contextlib
import time
import weakref
from typing import Any

import torch
from torch import Tensor

from .layout import ShardLayout

PAUSE_AT_EXIT = 0.05  # seconds
EXIT_PATIENCE = 5.0  # seconds; a rank that is gone would not answer for the whole timeout of the process group


class Reduce:
    """The one all-reduce of a step. At most one is under way: `launch` comes only after `take`.

    Beside the sums each rank sends n and n², n the number of windows that it has opened. Σn² · ranks = (Σn)² exactly when
    all n are equal: where they are not (a window that one rank dropped, an extra step on another), the ranks would add up
    sums of different steps. Then the sums come back as NaN, on all ranks alike, and move nothing.
    """

    def __init__(self, layout: ShardLayout) -> None:
        self.layout = layout
        self.count = 0
        self.unpaired: Tensor | None = None  # did the last sums come from different steps? 0-dim bool
        self._pending: tuple[Tensor, Any, torch.Size] | None = None
        _live.add(self)

    def begin(self) -> None:
        """Count a window; one that is dropped later counts too, on this rank alone."""
        self.count = (self.count + 1) % (1 << 16)  # small enough for n² · ranks to be exact in float64

    @property
    def under_way(self) -> bool:
        """Are there sums that nobody has taken yet?"""
        return self._pending is not None

    def launch(self, sums: Tensor, tag: int = 0) -> None:
        """Start adding up the ranks' sums; the buffer is not touched until `take`. tag: 0 or 1, equal on all ranks."""
        assert self._pending is None, "the sums of the step before were not taken"
        self._pending = self._start(sums, tag)

    def put(self, sums: Tensor) -> None:
        """Leave global sums that are known already for `take`."""
        assert self._pending is None, "the sums of the step before were not taken"
        self._pending = sums, None, sums.shape

    def take(self) -> Tensor | None:
        """Wait for the sums under way and return them, or None. Calls no collective: one rank alone may take."""
        if self._pending is None:
            return None
        pending, self._pending = self._pending, None
        return self._finish(*pending)

    def now(self, sums: Tensor, tag: int = 0) -> Tensor:
        """The global sums at once: a blocking reduce."""
        return self._finish(*self._start(sums, tag)).to(sums.device)

    def _start(self, sums: Tensor, tag: int) -> tuple[Tensor, Any, torch.Size]:
        if self.layout.world_size == 1:
            return sums, None, sums.shape
        n = 2 * self.count + tag
        buffer = torch.empty(sums.numel() + 2, dtype=sums.dtype, device=self.layout.reduce_device(sums.device))
        buffer[:-2].copy_(sums.flatten())
        buffer[-2].fill_(n)
        buffer[-1].fill_(n * n)
        return buffer, self.layout.all_reduce(buffer), sums.shape

    def _finish(self, buffer: Tensor, work: Any, shape: torch.Size) -> Tensor:
        if work is None:
            return buffer
        work.wait()
        paired = buffer[-1] * self.layout.world_size == buffer[-2] * buffer[-2]
        self.unpaired = ~paired
        return torch.where(paired, buffer[:-2], torch.nan).view(shape)

    def drain(self) -> None:
        """Let the reduce under way end before the process does; never raises, and gives up after EXIT_PATIENCE."""
        work = self._pending[1] if self._pending is not None else None
        until = time.monotonic() + EXIT_PATIENCE
        with contextlib.suppress(RuntimeError):  # the process group may be gone already
            while work is not None and not work.is_completed() and time.monotonic() < until:
                time.sleep(0.001)

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        _live.add(self)


_live: "weakref.WeakSet[Reduce]" = weakref.WeakSet()


@atexit.register
def _drain_all() -> None:
    """The reduce of a run's last step is awaited by nobody: gloo's threads abort a process that ends while they work.

    They also do when they still hold the tensors of one that is complete, hence the moment's pause.
    """
    reduces = list(_live)
    for reduce in reduces:
        reduce.drain()
    if any(reduce.count and reduce.layout.is_distributed for reduce in reduces):
        time.sleep(PAUSE_AT_EXIT)
