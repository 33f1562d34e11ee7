"""What is one open step, and which of its sums are needed before anything moves?"""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..comm.async_all_reduce import Reduce
from ..errors import NonFiniteError
from ..sharding.shard_index import Roster
from .amp_overflow import check_scales
from .estimate_state import ScalarTable
from .step_pieces import KeptGradients, expected


@dataclass
class Window:
    """One open step of all optimizers that share a StepSize.

    sums: what this rank has added up so far, float64 [n_estimates, n_sums + 1]. reduced: the global sums, when they were
    needed inside the step. skipped: nothing moves in this step. moves: some group has lr > 0. arrived, missing: keys of
    the pieces that have come and are still to come. deferred: the pieces are kept until the last has come.
    overflow: 0-dim bool, did a GradScaler find an overflow in the piece that comes, on any rank? None: nobody looked.
    overflows: the same of any piece of the step.
    """

    sums: Tensor
    reduced: Tensor | None = None
    skipped: bool = False
    moves: bool = False
    arrived: set[int] = field(default_factory=set)
    missing: set[int] = field(default_factory=set)
    deferred: bool = False
    overflow: Tensor | None = None
    overflows: Tensor | None = None
    kept: KeptGradients = field(default_factory=KeptGradients)

    def arrive(self, pieces: set[int]) -> None:
        self.arrived |= pieces
        self.missing -= pieces

    def leave_out(self, overflow: Tensor | None) -> None:
        """Say whether the coming piece overflowed: its tensors stay, and so does d, for it needs the sums of all pieces."""
        self.overflow = overflow
        if overflow is not None:
            self.overflows = overflow if self.overflows is None else self.overflows | overflow

    def usable_sums(self) -> Tensor:
        """The sums; 0, as of a step without gradients, when a piece overflowed."""
        return self.sums if self.overflows is None else torch.where(self.overflows, 0.0, self.sums)

    def is_complete(self, roster: Roster, *, recount: bool = False) -> bool:
        """Have all pieces of all optimizers come? recount: an optimizer may be gone, and is not to be waited for."""
        if recount or not self.missing:
            self.missing = expected(roster) - self.arrived
        return not self.missing


def measure(roster: Roster, reduce: Reduce, table: ScalarTable) -> bool:
    """The blocking reduce before the first update that has a gradient (D-Adapt SGD's ‖g0‖); is it done for good?"""
    check_scales(roster)
    table.absorb(reduce.now(torch.stack([member.measure() for member in roster]).sum(0)))
    return not bool(table.method.needs_early_sums(table.values).any())


def decide(window: Window, roster: Roster, reduce: Reduce) -> None:
    """Take the sums of this step before anything moves: all ranks skip it, or none does."""
    check_scales(roster)
    window.reduced = reduce.now(torch.stack([member.rehearse() for member in roster]).sum(0))
    if reduce.differ is not None and bool(reduce.differ[: len(reduce.differ) - reduce.n_told].any()):
        return  # these are no sums of one step: d is held, and the finite elements train
    clean = torch.isfinite(window.reduced).all(1) & (window.reduced[:, -1] == 0)
    window.skipped = not bool(clean.all())
    if window.skipped:  # estimates whose own gradients are finite stay too; they are not held by them
        window.reduced = torch.where(clean.unsqueeze(1), 0.0, window.reduced)


def refuse(window: Window, step: int, nonfinite: str) -> None:
    """With nonfinite="raise", raise NonFiniteError, on all ranks alike, when the step is to be skipped."""
    if nonfinite == "raise" and window.skipped and window.reduced is not None:
        elements = int(window.reduced[:, -1].sum().nan_to_num())
        raise NonFiniteError(
            f"{elements} gradient elements are not finite, or so large that they would overflow, in step {step} (0: a sum "
            'overflowed). Nothing has moved on any rank. nonfinite="skip" leaves such steps out, "hold" trains the finite '
            "elements."
        )
