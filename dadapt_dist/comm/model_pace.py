"""Count the model's training steps from its collectives, to notice a rank that left out `step()`.

A rank that leaves out step() still takes part in forward and backward, or the others could not go on. torch counts the
collectives of each process group. Most steps have equally many, D; a step with 2·D is two of the model's for one of ours, and
one with none is a second step() on the same gradients.
Other counts (an evaluation, a checkpoint, another bucket) are taken for one.
"""

import threading
from typing import Any

import torch
from torch.distributed import distributed_c10d as c10d

MOST_GROUPS = 32
TRACKED = 1 << 16


class Pace:
    """Counts the model's steps since `begin`, as far as they can be seen."""

    def __init__(self) -> None:
        self._groups: list[Any] = []
        self._last = self._usual = self._steps = 0
        self._before: int | None = None

    def begin(self, own: Any) -> None:
        """Count from here, as all ranks do. own: the process group that carries our sums and is not the model's."""
        self._groups = [group for group in [*c10d._world.pg_map][:MOST_GROUPS] if group is not own and _counts(group)]
        self._last, self._usual, self._steps, self._before = _total(self._groups), 0, 0, None

    def count(self) -> int | None:
        """Steps of the model so far; None where that cannot be told: inside a backward pass, whose collectives go on."""
        if torch._C._current_graph_task_id() != -1 or threading.current_thread() is not threading.main_thread():
            return None
        total = _total(self._groups)
        since, self._last = total - self._last, total
        whole = self._usual > 0 and since % self._usual == 0
        self._steps += since // self._usual if whole else 1
        if since == self._before:
            self._usual = since
        self._before = since
        return self._steps % TRACKED

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_groups": []}


def _counts(group: Any) -> bool:
    try:
        group._get_sequence_number_for_group()
    except (AttributeError, RuntimeError):
        return False
    return True


def _total(groups: list[Any]) -> int:
    """Collectives of these groups; those of one that was destroyed no longer count."""
    return sum(group._get_sequence_number_for_group() for group in groups if group in c10d._world.pg_map)
