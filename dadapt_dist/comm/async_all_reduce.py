"""The one asynchronous all-reduce of a step: start it, wait for it, and check that all ranks are in the same step."""

import atexit
import contextlib
import logging
import time
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..errors import PlacementError, ReduceError
from .communicator import ShardLayout
from .model_pace import Pace
from .step_agreement import STEPS, StepAgreement

logger = logging.getLogger(__name__)

PAUSE_AT_EXIT = 0.05  # seconds
EXIT_PATIENCE = 5.0  # seconds; a rank that is gone would not answer for the whole timeout of the process group
READING = 15.0  # seconds, and half the group's timeout at most, that reading d waits for the sums of other ranks


@dataclass
class Sent:
    """A reduce under way. width: where the sums, with what fills them up, end in the buffer. ranks: that it was started with."""

    buffer: Tensor
    work: Any
    shape: torch.Size
    width: int = 0
    ranks: int = 1


class Reduce:
    """The one all-reduce of a step. At most one is under way: `launch` comes only after `take`.

    Each rank sends [its sums | does Join end | triples of `StepAgreement`]. Where the ranks are in different steps, or differ in
    what has to be equal, the sums come back as NaN, on all ranks alike, and move nothing.

    A rank that has run out of input (Join) sends zeros, and A ranks take part. All have equal gradients then and have added
    1/ranks of their sums each, which A of them make up to A/ranks.
    """

    def __init__(self, layout: ShardLayout) -> None:
        self.layout = layout
        self.ranks = 1  # of the layout, since `restart`
        self.count = self.step = 0
        self.width = 0  # as many numbers as any reduce sends as sums: one that stands in for another has its length
        self.home = torch.device("cpu")  # where the sums live
        self.pace = Pace()
        self.pace_now: int | None = None  # None: not to be told
        self.agreement = StepAgreement()
        self.differ: Tensor | None = None  # of the last sums: what `StepAgreement.check` has found
        self._pending: Sent | None = None
        self._failed: ReduceError | None = None
        self._late = self._said_late = False
        _live.add(self)

    def begin(self) -> None:
        """Count a window; one that is dropped later counts too, on this rank alone."""
        self.count = (self.count + 1) % STEPS

    def restart(self, home: torch.device, width: int, marks: int, told: int) -> None:
        """Count from here, as all ranks do when they place their parameters.

        home, width: of the sums. marks: how many. told: how many of them, the last, are only told of.
        """
        self.agreement.restart(marks, told)
        self.count, self.ranks = 0, self.layout.world_size
        self.home, self.width, self.differ, self.pace_now = home, width, None, None
        if self.layout.parent is not None:
            self.pace.begin(self.layout.group)

    def again(self) -> None:
        """Count from here, with the parameters where they are: all ranks do, where some have stood still (Join)."""
        self.restart(self.home, self.width, self.agreement.n_marks, self.agreement.n_told)

    def abandon(self) -> None:
        """Forget the sums under way, or that they were lost, for the state that they belong to is given up."""
        self._pending = self._failed = self.differ = None

    @property
    def under_way(self) -> bool:
        """Whether there are sums that nobody has taken yet."""
        return self._pending is not None

    def launch(self, sums: Tensor, tag: int = 0) -> None:
        """Start adding up the ranks' sums; the buffer is not touched until `take`. tag: 0 or 1, equal on all ranks."""
        assert self._pending is None, "the sums of the step before were not taken"
        with self._kept():
            self._pending = self._start(sums, tag)

    def put(self, sums: Tensor) -> None:
        """Leave global sums that are known already for `take`."""
        assert self._pending is None, "the sums of the step before were not taken"
        self._pending = Sent(sums, None, sums.shape)

    def take(self) -> Tensor | None:
        """Wait for the sums under way and return them, or None. Calls no collective: one rank alone may take.

        Raises ReduceError when they are lost, and again at each later call, until `abandon`.
        """
        if self._failed is not None:
            raise self._failed
        if self._pending is None:
            return None
        pending, self._pending = self._pending, None
        with self._kept():
            return self._finish(pending)

    def is_late(self) -> bool:
        """Return whether the pending sums fail to arrive while a reader waits who can do without them.

        A rank that has left out a step() sends none before its next one, for which it may need this rank: in the model's next
        backward pass. To wait here would stop both.
        """
        work = None if self._pending is None or self._failed is not None else self._pending.work
        if work is None or work.is_completed():
            self._late = False
            return False
        until = time.monotonic() + (0.0 if self._late else min(READING, self.layout.timeout / 2))
        while not work.is_completed():
            if time.monotonic() >= until:
                self._late = True
                self._say_late()
                return True
            time.sleep(0.0002)
        self._late = False
        return False

    def _say_late(self) -> None:
        if not self._said_late:
            self._said_late = True
            logger.warning(
                "d was read, and the sums of step %d have not come from all ranks: it is the d of before that step. Another rank "
                "is late, or has left out the step. Read d on all ranks after the same steps, or before step().",
                self.step,
            )

    def now(self, sums: Tensor, tag: int = 0) -> Tensor:
        """The global sums at once: a blocking reduce. Raises ReduceError; nothing is lost by it."""
        with _told(self.step, lost=False):
            return self._finish(self._start(sums, tag)).to(sums.device)

    def shadow(self, *, end: bool) -> bool:
        """Take part in one reduce without sums; return whether Join ends with it. end: announce the end, after all others."""
        with _told(self.step, lost=False):
            device = self.layout.reduce_device(self.home)
            buffer = torch.zeros(self.width + 1 + self.agreement.size, dtype=torch.float64, device=device)
            buffer[self.width] = float(end)
            self.layout.count_launch()
            self.layout.all_reduce(buffer).wait()
            return bool(buffer[self.width] > 0)

    @contextlib.contextmanager
    def _kept(self) -> Iterator[None]:
        """Keep an error: the sums of a step whose parameters have moved are lost with it."""
        try:
            with _told(self.step, lost=True):
                yield
        except ReduceError as error:
            self._failed = error
            raise

    def _start(self, sums: Tensor, tag: int) -> Sent:
        if self.ranks == 1:
            return Sent(sums, None, sums.shape)
        if self.agreement.stopped:
            return Sent(torch.full_like(sums, torch.nan), None, sums.shape)
        size, device = sums.numel(), self.layout.reduce_device(sums.device)
        width = max(self.width, size)
        buffer = torch.zeros(width + 1 + self.agreement.size, dtype=sums.dtype, device=device)
        buffer[:size].copy_(sums.flatten())
        self.agreement.encode(buffer[width + 1 :], self.count, tag, self.pace_now)
        self.layout.count_launch()
        _started[0] = True
        return Sent(buffer, self.layout.all_reduce(buffer), sums.shape, width, self.ranks)

    def _finish(self, sent: Sent) -> Tensor:
        if sent.work is None:
            return sent.buffer
        sent.work.wait()
        active, self.differ, apart = self.agreement.check(sent.buffer[sent.width + 1 :])
        sums = sent.buffer[: sent.shape.numel()] * (sent.ranks / active)
        return torch.where(apart, torch.nan, sums).view(sent.shape)

    def drain(self) -> None:
        """Let the reduce under way end before the process does; never raises, and gives up after EXIT_PATIENCE."""
        work = self._pending.work if self._pending is not None else None
        until = time.monotonic() + EXIT_PATIENCE
        with contextlib.suppress(RuntimeError):  # the process group may be gone already
            while work is not None and not work.is_completed() and time.monotonic() < until:
                time.sleep(0.001)

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        _live.add(self)


@contextlib.contextmanager
def _told(step: int, *, lost: bool) -> Iterator[None]:
    """Say in which step a reduce failed, and what to do. lost: the parameters have moved, and d cannot follow."""
    try:
        yield
    except (ReduceError, PlacementError):
        raise
    except RuntimeError as error:
        what = (
            "They are lost to this rank, so this state can neither be saved nor trained on"
            if lost
            else "Nothing has moved in this step on this rank"
        )
        raise ReduceError(
            f"the sums of step {step} did not come together ({str(error).strip()}). Another rank is gone, or has stood still for "
            f"longer than the timeout of the process group. {what}: on all ranks start again, or make the process group anew, "
            "and load the last checkpoint."
        ) from error


_live: "weakref.WeakSet[Reduce]" = weakref.WeakSet()
_started = [False]  # has any reduce been started? Its optimizer, and its process group, may be gone by the end


@atexit.register
def _drain_all() -> None:
    """The reduce of a run's last step is awaited by nobody: gloo's threads abort a process that ends while they work.

    They also do when they still hold the tensors of one that is complete, hence the moment's pause.
    """
    for reduce in list(_live):
        reduce.drain()
    if _started[0]:
        time.sleep(PAUSE_AT_EXIT)
