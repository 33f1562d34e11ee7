"""What docstrings and the documentation say of a method."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class Documentation:
    """The words of a method; its options carry theirs.

    Args:
        summary: one line, a statement.
        when: one line: when to choose the method.
        reference: paper and identifier.
        equations: update, sums and rule, a line each; the notation is that of docs/methods.md.
        notes: paragraphs that follow the equations.
    """

    summary: str
    when: str
    reference: str
    equations: str
    notes: str = ""


@dataclass(frozen=True, kw_only=True)
class Variant:
    """A further public class of a method: the same mathematics, options and checkpoints, another default of `estimates`."""

    name: str
    documentation: Documentation
    estimates: Literal["per_tensor"]
