"""Steps that a framework brings in several calls of step(), each with some of the tensors."""

import logging

from .members import Member, Roster

logger = logging.getLogger(__name__)


def all_pieces(member: Member) -> set[int]:
    """Keys of the pieces of one optimizer's step: its tensors."""
    return {id(p) for named in member._brought_by.tensors(member._all_groups) for _, p in named}


def in_pieces(member: Member) -> bool:
    """Return whether a step of this optimizer arrives in several calls of step()."""
    return member._brought_by.in_pieces and len(all_pieces(member)) > 1


def check_pieces(roster: Roster, nonfinite: str | None) -> None:
    """Raise ValueError for what needs a step whole, where it comes in pieces."""
    arriving = [member for member in roster if in_pieces(member)]
    if nonfinite in ("skip", "raise") and arriving:
        raise ValueError(
            f"nonfinite={nonfinite!r} needs all gradients before anything moves, and the framework brings a step in pieces, of "
            f"groups or sub-groups. {arriving[0]._brought_by.nonfinite_advice}"
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
