"""What do all ranks settle together before the first step, and again when parameters, state or ranks are others?"""

from collections.abc import Callable, Hashable

from .agreement import Agreement
from .coverage import Claims
from .held import HeldReport
from .reduce import Reduce
from .roster import Roster, home_device
from .scalars import ScalarTable


def place(
    roster: Roster,
    table: ScalarTable,
    agreement: Agreement,
    configuration: Hashable,
    check: Callable[[], None],
) -> None:
    """Find where all parameters live, and what of their options has to stay equal; a collective call of all ranks.

    configuration: equal on all ranks. check: raises for what this rank cannot do. Raises PlacementError on all ranks alike.
    """
    agreement.begin(table.constants(0), set().union(*(member.defaults for member in roster)))
    digests = dict(zip(agreement.options, agreement.digests(roster.groups()), strict=True))
    roster.place(Claims((*table.configuration(), configuration), table.fingerprint(), digests), check)
    agreement.settle(roster.classes, roster.layout.rank)


def begin(roster: Roster, table: ScalarTable, reduce: Reduce, held: HeldReport) -> None:
    """Count steps and keep scalars and buffers from here on, as all ranks do that have placed their parameters."""
    home = home_device([p for member in roster for _, _, p in member.named_params()])
    table.to(home)
    held.live_on(home)
    held.forget()
    reduce.restart(home, table.no_sums().numel())
    for member in roster:
        member.bind_groups()
        member.prepare()
