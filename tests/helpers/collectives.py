"""Count the optimizer's own reduces in CommDebugMode, and say how many a method takes."""

from typing import Any

from dadapt_dist.methods import METHODS, Method

# gloo with few ranks: one all_to_all, added up locally. Redistributions of gradients are functional and not among these.
REDUCES = ("c10d.allreduce_", "c10d.alltoall_base_")


def reduces(counts: dict[Any, int]) -> int:
    """Reduces among the collectives that were counted."""
    return sum(number for op, number in counts.items() if any(name in str(op) for name in REDUCES))


def reduces_of(name: str, *, lagged: bool = False, frozen: bool = False) -> int:
    """How many reduces a steady step of a method takes: of sums after the move, and of those before it in each step."""
    method = METHODS[name.split()[0]]
    always = method.before is not None and method.wants_before is Method.wants_before
    if lagged and always:
        return int(not frozen)
    return 0 if frozen else (method.after is not None) + always
