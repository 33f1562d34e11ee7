"""Tell from the sums of one reduce whether all ranks are in the same step, with the same of all that has to be equal."""

from collections.abc import Sequence

import torch
from torch import Tensor

STEPS = 1 << 16  # step numbers and the model's steps count modulo this; digests are as large
PATIENCE = 3  # reduces in a row after which ranks whose models seem to be in different steps are
TOLERANCE = 2e-4  # of the squares: bfloat16 gradients of one tensor differ by 1e-5, one tensor in a thousand that differs by 2e-3


def triple(h: float) -> tuple[float, float, float]:
    """(1, h, h²): what a rank adds to the reduce for the others to see that they all have the same h."""
    return 1.0, float(h), float(h * h)


class StepAgreement:
    """What each rank adds to the reduce of a step, and what the totals say of the ranks.

    Rank r sends (a, a·h, a·h²) for a number h, with a = 1 if it takes part and 0 if not (a rank that has run out of input, or
    that has nothing to say). Of the totals A = Σ a, S = Σ a·h and Q = Σ a·h², Lagrange's identity says

        A·Q - S² = Σ_{r<s} a_r·a_s·(h_r - h_s)²

    so that A·Q = S² exactly when all who take part sent the same h. With h < 2^17 the totals are exact in float64 for up to
    2^18 ranks, in any order of adding; equal h give the same rounding on both sides, and others a difference that no rounding
    hides. Every rank computes it from the same bits, and comes to the same answer.

    The triples of a reduce, in their order:

        n       2·(windows that the rank has opened) + tag: ranks that differ would add up sums of different steps
        m       steps of the model, as far as they can be counted (see `Pace`): may differ for a while, and PATIENCE times in
                a row for good
        marks   digests of what has to be equal (see `rank_agreement`); the last n_told of them are compared up to rounding,
                and differences in them are only told, since no sum is wrong by them

    The first A, of n, is the number of ranks that take part.

    Example:
        >>> ranks = [StepAgreement(), StepAgreement()]
        >>> sent = [torch.zeros(6, dtype=torch.float64) for _ in ranks]
        >>> for agreement, count, numbers in zip(ranks, (7, 7), sent):
        ...     agreement.encode(numbers, count, 0, None)
        >>> active, differ, apart = ranks[0].check(sent[0] + sent[1])
        >>> float(active), differ.tolist(), bool(apart)
        (2.0, [False, False], False)
    """

    def __init__(self) -> None:
        self.n_marks = self.n_told = 0
        self.marks: Tensor | None = None  # flat triples, on the device of the reduce
        self.stopped = False  # have the ranks been seen to be in different steps?
        self._doubt: Tensor | None = None  # how many reduces in a row have differed in m; at PATIENCE, for good

    def restart(self, marks: int, told: int) -> None:
        """Begin anew, as all ranks do when they place their parameters. marks: how many. told: how many of them, the last."""
        self.n_marks, self.n_told, self.marks, self._doubt, self.stopped = marks, told, None, None, False

    @property
    def size(self) -> int:
        """Numbers that `encode` writes."""
        return 6 + 3 * self.n_marks

    def encode(self, numbers: Tensor, count: int, tag: int, pace: int | None) -> None:
        """Write this rank's triples into zeros, float64 [size], which the reduce adds up.

        Args:
            numbers: Where to write.
            count: Windows that the rank has opened, below STEPS.
            tag: 0 or 1, to be equal on all ranks that count the same.
            pace: Steps of its model; None: not to be told.
        """
        n, m, told = 2 * count + tag, pace or 0, pace is not None
        for place, value in enumerate((1, n, n * n, told, m, m * m)):
            numbers[place].fill_(value)  # a kernel's argument: nothing is copied, and nobody waits
        if self.marks is not None:
            numbers[6:].copy_(self.marks, non_blocking=True)

    def check(self, totals: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What the totals of the triples say, the same on all ranks. To be called once for each reduce.

        Returns:
            (ranks that take part; bool [2 + n_marks]: perhaps in different steps, surely, and for each mark whether it
            differs; whether the sums are to be left out: 0-dim bool). See `read`.
        """
        triples = totals.view(-1, 3)
        active, total, squares = triples.unbind(1)
        differ = active * squares != total * total
        told = len(differ) - self.n_told
        differ = torch.cat([differ[:told], _differ_beyond_rounding(triples[told:])])
        before = torch.zeros_like(active[0]) if self._doubt is None else self._doubt
        self._doubt = torch.where(differ[0], PATIENCE, torch.where(differ[1], before + 1, 0.0)).maximum(
            torch.where(before >= PATIENCE, before, 0.0)
        )
        apart = self._doubt >= PATIENCE
        if apart.device.type == "cpu" and bool(apart):
            # All ranks see it in the same reduce, whenever they come to it, and start none after it: none is left waiting.
            self.stopped = True
        found = torch.cat([(self._doubt > 0).view(1), apart.view(1), differ[2:]])
        return active[0], found, differ[:told].any() | apart

    def is_apart(self, found: Tensor) -> bool:
        """Whether the sums were left out, from what `check` has found. Waits for the device."""
        return bool(found[: len(found) - self.n_told].any())


def read(found: Sequence[bool], marks: Sequence[str]) -> tuple[bool, bool, set[str]]:
    """(perhaps in different steps, surely, names of the marks that differ), from what `check` has found, as a list.

    marks: the name of each mark.
    """
    doubtful, steps, *differ = found
    return doubtful, steps, {name for name, differs in zip(marks, differ, strict=False) if differs}


def _differ_beyond_rounding(triples: Tensor) -> Tensor:
    """Return where the ranks' numbers differ by more than rounding: bool [n], from the summed triples [n, 3]."""
    active, total, squares = triples.unbind(1)
    return active * squares - total * total > TOLERANCE * active * squares
