"""Run the one reduction of a step over MPI, without torch.distributed: `MPILayout`."""

import logging
import os
import queue
import threading
import time
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..launch import detect
from ..launch.by_mpi import check_size, load
from .communicator import ShardLayout

logger = logging.getLogger(__name__)

TICK = 0.001  # seconds between two looks at a reduction under way


class MPILayout(ShardLayout):
    """The ranks of an MPI communicator, for training without torch.distributed.

    Each step starts one nonblocking Iallreduce of a few float64 numbers and waits for it at the next step. MPI makes
    progress only inside its own calls. If MPI was initialised with MPI_THREAD_MULTIPLE (mpi4py's default), a thread polls
    every millisecond, so that the reduction overlaps with the computation; otherwise it runs inside the wait, which is
    logged once. All ranks of the communicator must construct the layout together.

    Args:
        comm: An mpi4py communicator; a duplicate of it is used. None is COMM_WORLD.
        copies: As for `ShardLayout`. Pass `lambda p: 1` if every rank holds different elements, as in a model sharded by
            hand.

    Raises:
        LaunchError: mpi4py or an MPI library is missing, or MPI sees another number of processes than the launcher started.

    Example:
        >>> from dadapt_dist.mpi import MPILayout  # doctest: +SKIP
        >>> optimizer = Prodigy(model.parameters(), process_group=MPILayout())  # doctest: +SKIP
    """

    def __init__(self, comm: Any = None, copies: Callable[[Tensor], int | None] | None = None) -> None:
        world = detect(os.environ)
        mpi = load()
        if comm is None:
            check_size(mpi, world)
        own = (mpi.COMM_WORLD if comm is None else comm).Dup()
        super().__init__(own, copies)
        self._size: int = own.size
        self._rank: int = own.rank
        self._progress = _Progress.of(mpi)

    def with_copies(self, copies: Callable[[Tensor], int | None] | None) -> "MPILayout":
        other = object.__new__(MPILayout)
        other.__dict__.update(self.__dict__, copies=copies)
        return other

    @property
    def world_size(self) -> int:
        return self._size

    @property
    def rank(self) -> int:
        return self._rank

    @property
    def parent(self) -> Any:
        """None: a communicator lives as long as MPI does."""
        return None

    def meet(self) -> None:
        """Nothing to do: the communicator is a duplicate of its own."""

    def count_launch(self) -> None:
        """Nothing to note."""

    def all_reduce(self, sums: Tensor) -> "MPISum":
        """Start the sum over all ranks of a CPU tensor, float64 [n]; the tensor holds the total after `wait`."""
        return MPISum(self.process_group, sums, self._progress)

    def all_gather(self, row: Tensor) -> Tensor:
        return torch.tensor(self.process_group.allgather(row.tolist()), dtype=row.dtype, device=row.device)

    def all_gather_object(self, item: Any) -> list[Any]:
        return list(self.process_group.allgather(item))

    def reduce_device(self, home: torch.device) -> torch.device:
        """Return the CPU, where MPI adds up, whatever device the parameters are on."""
        return torch.device("cpu")


class MPISum:
    """A sum over all ranks that is under way. The tensor is not to be touched until `wait` has returned.

    Nobody may wait for it: an optimizer can be dropped after its last step. MPI writes into its memory all the same, and keeps
    none of it alive.
    """

    # requests, and their memory, that no thread looks after
    _under_way: ClassVar[list[tuple[Any, Tensor, Tensor]]] = []

    def __init__(self, comm: Any, sums: Tensor, progress: "_Progress | None") -> None:
        self._sums, self._sent = sums, sums.clone()
        self._received = torch.empty_like(sums)
        self._request = comm.Iallreduce(self._sent, self._received)
        buffers = self._sent, self._received
        self._watched = None if progress is None else progress.watch(self._request, buffers)
        if progress is None:
            MPISum._under_way[:] = [(self._request, *buffers), *(one for one in self._under_way if not one[0].Test())]

    def is_completed(self) -> bool:
        return bool(self._request.Test()) if self._watched is None else self._watched.done.is_set()

    def wait(self) -> None:
        """Wait for the others' numbers, and put the total into the tensor that was given. Raises MPI's error, if any."""
        if self._watched is None:
            self._request.Wait()
        else:
            self._watched.done.wait()
            if self._watched.error is not None:
                raise self._watched.error
        self._sums.copy_(self._received)


class _Watched:
    """A request, kept with its memory until it is done."""

    def __init__(self, request: Any, buffers: tuple[Tensor, ...]) -> None:
        self.request, self.buffers, self.done = request, buffers, threading.Event()
        self.error: BaseException | None = None


class _Progress:
    """One thread of the process that keeps every reduction moving."""

    _only: "_Progress | None" = None
    _told = False

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[_Watched] = queue.SimpleQueue()
        threading.Thread(target=self._work, name="dadapt-dist MPI", daemon=True).start()

    @classmethod
    def of(cls, mpi: Any) -> "_Progress | None":
        """The process's own; None, with one line in the log, where MPI allows calls from one thread only."""
        if mpi.Query_thread() < mpi.THREAD_MULTIPLE:
            if not cls._told:
                cls._told = True
                logger.warning(
                    "MPI was started without MPI_THREAD_MULTIPLE: the reduction of a step hides behind nothing. Leave "
                    "mpi4py.rc.thread_level at 'multiple'."
                )
            return None
        if cls._only is None:
            cls._only = cls()
        return cls._only

    def watch(self, request: Any, buffers: tuple[Tensor, ...]) -> _Watched:
        watched = _Watched(request, buffers)
        self._queue.put(watched)
        return watched

    def _work(self) -> None:
        while True:
            watched = self._queue.get()
            try:
                while not watched.request.Test():
                    time.sleep(TICK)
            except BaseException as error:  # noqa: BLE001 - raised where the sum is waited for
                watched.error = error
            watched.done.set()
