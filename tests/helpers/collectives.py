"""Count the optimizer's own reduces in CommDebugMode."""

from typing import Any

# gloo with few ranks: one all_to_all, added up locally. Redistributions of gradients are functional and not among these.
REDUCES = ("c10d.allreduce_", "c10d.alltoall_base_")


def reduces(counts: dict[Any, int]) -> int:
    """Reduces among the collectives that were counted."""
    return sum(number for op, number in counts.items() if any(name in str(op) for name in REDUCES))
