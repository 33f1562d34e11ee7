"""Verify that all ranks keep the same options: a digest of each rides in every reduce, so that a difference has a name.

What the estimate depends on (d0, d_coef, ...) has to be equal on all ranks. What the update depends on (lr, betas, ...) only
among ranks with the same parameters: pipeline stages may have other groups. Those ranks form a class, and each class has
digests of its own. Python compares the groups' values with those of the step before; only what changed is digested.
"""

import zlib
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from ..comm.gradient_witness import BUCKETS, Witness
from ..comm.step_agreement import triple

MAX_CLASSES = 8  # classes of ranks whose options are compared
NOT_WATCHED = frozenset({"log_every", "differentiable"})
PLAIN = {int, float, bool}

Group = dict[str, Any]


class Agreement:
    """What this rank has to send for the others to see that its options are theirs.

    constants: names of the estimate's constants. options: names of what the update depends on.
    """

    def __init__(self) -> None:
        self.constants: list[str] = []
        self.options: list[str] = []
        self._slot: int | None = None
        self._slots = 0
        self.witness = Witness()
        self._is_witnessed = False
        self._spoke = False
        self._seen: list[list[Any]] = []
        self._volatile = True
        self._marks: Tensor | None = None
        self._columns: dict[str, tuple[list[Any], int]] = {}  # of each option, the values and their digest
        self._settings = 0  # a digest of the settings of the StepSize
        self._by_hand = 0  # a digest of the scalars that were set by hand since the ranks were seen to have the same

    def begin(self, constants: Iterable[str], options: Iterable[str]) -> None:
        """Say which constants of the estimates and which options of the groups are watched."""
        self.constants = sorted(constants)
        self.options = sorted(set(options) - set(self.constants) - NOT_WATCHED)
        self._marks, self._by_hand = None, 0

    def begin_settings(self, values: Iterable[Any]) -> None:
        """Take the settings of the StepSize that all ranks need alike, as they are now."""
        self._settings = _digest([_plain(value) for value in values])
        self._marks = None

    def set_by_hand(self, estimate: str, name: str, value: float | tuple[float, ...]) -> None:
        """Take note that a scalar of an estimate was given another value here, which all ranks have to give it."""
        values = value if isinstance(value, tuple) else (value,)
        self._by_hand = _digest([self._by_hand, zlib.crc32(f"{estimate} {name}".encode()), *map(float, values)])
        self._marks = None

    def settle(self, classes: Sequence[int], rank: int, suspects: Iterable[Tensor], *, witnessed: bool) -> None:
        """Take the class of every rank, as all ranks see them. Ranks that are alone in theirs have nobody to agree with.

        suspects: this rank's parameters that are copies by their values alone. witnessed: have all ranks such, and the same?
        """
        self.witness.begin(suspects if witnessed else ())
        self._is_witnessed = witnessed
        several = [kind for kind, ranks in Counter(classes).items() if ranks > 1][:MAX_CLASSES]
        self._slots = len(several)
        self._slot = several.index(classes[rank]) if classes[rank] in several else None
        self._marks = None

    def names(self) -> list[str]:
        """What the marks stand for, in their order."""
        return [*self.constants, BY_HAND, SETTINGS, *self.options * self._slots, *[COPIES] * self.n_witnessed]

    @property
    def n_witnessed(self) -> int:
        """How many marks, the last, only tell of gradients: d is not held where they differ."""
        return BUCKETS if self._is_witnessed else 0

    def digests(self, groups: Sequence[Group]) -> list[int]:
        """A number of 16 bits for each option, over all groups."""
        return [self._column(name, [dict.get(group, name) for group in groups]) for name in self.options]

    def _column(self, name: str, values: list[Any]) -> int:
        before, volatile = self._columns.get(name), not VOLATILE.isdisjoint(map(type, values))
        self._volatile |= volatile
        if before is None or volatile or not _same(values, before[0]):
            before = self._columns[name] = values, _digest(values)
        return before[1]

    def marks(self, groups: Sequence[Group], constants: Sequence[dict[str, float]], device: torch.device) -> Tensor:
        """Flat triples (1, h, h²), zeros for other classes: float64 on the device of the reduce."""
        seen = [[*dict.values(group)] for group in groups]
        seen.append([row[name] for row in constants for name in self.constants])
        looking = self.witness.is_looking
        if (
            looking
            or self._spoke
            or self._marks is None
            or self._volatile
            or self._marks.device != device
            or not _same(seen, self._seen)
        ):
            self._seen = seen
            self._volatile = False
            self._spoke = looking
            self._marks = self._new(groups, constants).to(device, non_blocking=True)
        return self._marks

    def _new(self, groups: Sequence[Group], constants: Sequence[dict[str, float]]) -> Tensor:
        numbers: list[float] = []
        for name in self.constants:
            numbers += triple(_digest([row[name] for row in constants]))
        numbers += triple(self._by_hand) + triple(self._settings)
        if self._slots:
            own = [number for h in self.digests(groups) for number in triple(h)]
            for slot in range(self._slots):
                numbers += own if slot == self._slot else [0.0] * len(own)
        if self._is_witnessed:
            numbers += self.witness.marks()
        return torch.tensor(numbers, dtype=torch.float64, device="cpu")


COPIES = "copies"
BY_HAND = "d"
SETTINGS = "nonfinite, freeze_after, before or clip_norm"
VOLATILE = {list, Tensor}  # values that change without becoming another object


def _same(one: list[Any], other: list[Any]) -> bool:
    try:
        return one == other
    except (RuntimeError, ValueError):  # something foreign in a group whose comparison is no bool
        return False


def _digest(values: list[Any]) -> int:
    """Numbers have the same hash in every process, unlike text."""
    if not set(map(type, values)) <= PLAIN:
        values = [*map(_plain, values)]
    h = hash(tuple(values))
    return (h ^ h >> 16 ^ h >> 32 ^ h >> 48) & 0xFFFF


def _plain(value: Any) -> Any:
    """A number, or a tuple of them, that stands for a value of an option."""
    if type(value) in PLAIN:
        return value
    if isinstance(value, Tensor):
        return float(value) if value.device.type == "cpu" and value.numel() == 1 else 0
    if value is None or isinstance(value, str):
        return zlib.crc32(repr(value).encode())
    try:
        return tuple(map(_plain, value)) if hasattr(value, "__iter__") else float(value)
    except (TypeError, ValueError):
        return zlib.crc32(repr(value).encode())
