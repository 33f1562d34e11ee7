"""In how many pieces does one step arrive, which have come, and what cannot be done with a step in pieces?"""

import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from torch import Tensor

from ..methods import Method
from ..sharding.shard_index import Member, Roster

logger = logging.getLogger(__name__)


def in_pieces(member: Member) -> bool:
    """Does a step of this optimizer arrive in several calls of step()?"""
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


def check(roster: Roster, method: Method, nonfinite: str | None) -> None:
    """Raise ValueError for what needs a step whole, where it comes in pieces."""
    arriving = [member for member in roster if in_pieces(member)]
    if method.early_sums and len(arriving) > 1:
        raise ValueError(
            f"{method.name} needs a sum over all gradients before its first update, and {len(arriving)} engines bring theirs one "
            "after the other. Give each engine's optimizer a StepSize of its own, or use DAdaptAdam or Prodigy."
        )
    for member in arriving:
        why = member.delivery.refuse_deferral() if method.early_sums else None
        if why:
            raise ValueError(
                f"{method.name} needs a sum over all gradients before its first update, and {why}. Use DAdaptAdam or Prodigy, "
                "or keep the optimizer in memory (offload to the CPU)."
            )
        if nonfinite in ("skip", "raise"):
            raise ValueError(
                f"nonfinite={nonfinite!r} needs all gradients before anything moves, and the framework brings a step in pieces, "
                f"of groups or sub-groups. {member.delivery.nonfinite_advice}"
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


class KeptGradients:
    """Copies of the gradients of a step whose pieces are not all there: frameworks use their memory for the next piece."""

    def __init__(self) -> None:
        self._kept: dict[Tensor, Tensor] = {}

    def keep(self, params: Iterable[Tensor]) -> None:
        """Copy the gradients of these parameters."""
        self._kept.update((p, p.grad.clone()) for p in params if p.grad is not None)

    @contextmanager
    def put_back(self) -> Iterator[None]:
        """Let every parameter have the gradient that was kept, and its own again afterwards."""
        own = {p: p.grad for p in self._kept}
        try:
            for p, gradient in self._kept.items():
                p.grad = gradient
            yield
        finally:
            for p, gradient_or_none in own.items():
                p.grad = gradient_or_none
