"""One open step of the optimizers that share a StepSize: what has come of it, its sums, and whether it is skipped."""

import logging
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..comm.async_all_reduce import Reduce
from ..errors import NonFiniteError
from .members import Member, Roster

logger = logging.getLogger(__name__)


@dataclass
class Window:
    """One open step of all optimizers that share a StepSize.

    sums: what this rank has added up so far, float64 [n_estimates, width(phases)]. phases: whose sums these are. reduced: the
    global sums, when they were needed inside the step. skipped: nothing moves in this step. moves: some group has lr > 0.
    launches: its end starts a
    reduce. measured: the global sums of before it, where it has no others. arrived, missing: keys of the pieces that have come
    and are still to come.
    overflow: 0-dim bool, did a GradScaler find an overflow in the piece that comes, on any rank? None: nobody looked.
    overflows: the same of any piece of the step.
    """

    sums: Tensor
    phases: tuple[str, ...] = ("after",)
    reduced: Tensor | None = None
    skipped: bool = False
    moves: bool = False
    launches: bool = True
    measured: Tensor | None = None
    arrived: set[int] = field(default_factory=set)
    missing: set[int] = field(default_factory=set)
    overflow: Tensor | None = None
    overflows: Tensor | None = None

    def arrive(self, pieces: set[int]) -> None:
        self.arrived |= pieces
        self.missing -= pieces

    def leave_out(self, overflow: Tensor | None) -> None:
        """Say whether the coming piece overflowed: its tensors stay, and so does d, for it needs the sums of all pieces."""
        self.overflow = overflow
        if overflow is not None:
            self.overflows = overflow if self.overflows is None else self.overflows | overflow

    def usable(self, sums: Tensor) -> Tensor:
        """The sums; 0, as of a step without gradients, when a piece overflowed."""
        return sums if self.overflows is None else torch.where(self.overflows, 0.0, sums)

    def is_complete(self, roster: Roster, *, recount: bool = False) -> bool:
        """Return whether all pieces of all optimizers have come. recount: do not wait for an optimizer that is gone."""
        if recount or not self.missing:
            self.missing = expected(roster) - self.arrived
        return not self.missing


# ---------------------------------------------------------------- steps in pieces


def in_pieces(member: Member) -> bool:
    """Return whether a step of this optimizer arrives in several calls of step()."""
    return member.delivery.in_pieces and len(expected_of(member)) > 1


def expected_of(member: Member) -> set[int]:
    """Keys of the pieces of one optimizer's step: its tensors, or the optimizer itself when they come all at once."""
    if not member.delivery.in_pieces:
        return {id(member)}
    return {id(p) for named in member.delivery.tensors(member.groups) for _, p in named}


def expected(roster: Roster) -> set[int]:
    """Keys of all pieces that make up a step."""
    return set().union(*(expected_of(member) for member in roster))


def delivered(member: Member) -> set[int]:
    """Keys of the pieces that the present call of step() brings."""
    if not member.delivery.in_pieces:
        return {id(member)}
    return {id(p) for group in member.param_groups for p in group["params"]}


def check_pieces(roster: Roster, nonfinite: str | None) -> None:
    """Raise ValueError for what needs a step whole, where it comes in pieces."""
    arriving = [member for member in roster if in_pieces(member)]
    if nonfinite in ("skip", "raise") and arriving:
        raise ValueError(
            f"nonfinite={nonfinite!r} needs all gradients before anything moves, and the framework brings a step in pieces, of "
            f"groups or sub-groups. {arriving[0].delivery.nonfinite_advice}"
        )


def refuse_again(roster: Roster) -> None:
    """Raise RuntimeError for an optimizer that steps again before the others; log a framework's step that broke off.

    To raise inside a framework that brings its steps in pieces would leave it with some of the groups only.
    """
    if any(in_pieces(member) for member in roster):
        logger.error(
            "a step broke off between its pieces: some parameters have moved, others have not, and d stays as it was. Training "
            "goes on; go back to a checkpoint if that matters."
        )
        return
    raise RuntimeError(
        "an optimizer stepped twice before every optimizer that shares its StepSize had stepped, so it cannot be known where one "
        "step ends. Call step() of each once, or bracket one step: `with step_size.window(): ...`."
    )


# ---------------------------------------------------------------- steps that are skipped


def decide(window: Window, reduced: Tensor, reduce: Reduce) -> None:
    """Skip the step, on all ranks alike, when these global sums of it are not finite; keep them for its end otherwise."""
    window.reduced = reduced
    if reduce.differ is not None and reduce.agreement.is_apart(reduce.differ):
        return  # these are no sums of one step: d is held, and the finite elements train
    clean = torch.isfinite(reduced).all(1) & (reduced[:, -1] == 0)
    window.skipped = not bool(clean.all())
    if window.skipped:  # estimates whose own gradients are finite stay too; they are not held by them
        window.reduced = torch.where(clean.unsqueeze(1), 0.0, reduced)


def refuse(window: Window, step: int, nonfinite: str | None) -> None:
    """With nonfinite="raise", raise NonFiniteError, on all ranks alike, when the step is to be skipped."""
    if nonfinite == "raise" and window.skipped and window.reduced is not None:
        elements = int(window.reduced[:, -1].sum().nan_to_num())
        raise NonFiniteError(
            f"{elements} gradient elements are not finite, or so large that they would overflow, in step {step} (0: a sum "
            "overflowed, or the loss, where the method uses it, is not finite). Nothing has moved on any rank. "
            'nonfinite="skip" leaves such steps out, "hold" trains the finite elements.'
        )
