"""What all ranks agree on before the first step, and again after parameters, state or ranks have changed."""

from functools import partial
from typing import TYPE_CHECKING

import torch

from .. import kernels
from ..sharding.rank_claims import Claims
from ..sharding.shard_index import home_device
from .step_pieces import check_pieces

if TYPE_CHECKING:
    from .step_size import StepSize


def place(step_size: "StepSize") -> None:
    """Find where all parameters live, agree on what has to stay equal, and count steps from here; a collective call.

    Raises PlacementError on all ranks alike.
    """
    roster, table, agreement = step_size.roster, step_size.scalars, step_size.agreement
    agreement.begin(table.constants(0), set().union(*(member.defaults for member in roster)))
    claims = Claims(
        (*table.configuration(), step_size.nonfinite, step_size.freeze_after, step_size.before),
        table.fingerprint(),
        dict(zip(agreement.options, agreement.digests(roster.groups()), strict=True)),
    )
    roster.place(claims, partial(check_pieces, roster, step_size.nonfinite), kernels.rank_fingerprint)
    agreement.settle(
        roster.classes,
        step_size.layout.rank,
        roster.suspects,
        witnessed=roster.is_witnessed and roster.layout.world_size > 1,
    )
    home = home_of(step_size)
    table.to(home)
    step_size.diagnostics.begin(step_size, home)
    step_size.reduce.restart(home, step_size.widest(), len(agreement.names()), agreement.n_witnessed)
    for member in roster:
        member.bind_groups()
        member.prepare()
    step_size.joining.watch(roster.modules)


def home_of(step_size: "StepSize") -> torch.device:
    """Where the parameters live."""
    return home_device([p for member in step_size.roster for _, _, p in member.named_params()])


def mark(step_size: "StepSize") -> None:
    """Let the coming reduce tell the other ranks of this one's options and of its model's steps."""
    reduce, table = step_size.reduce, step_size.scalars
    device = step_size.layout.reduce_device(table.device)
    reduce.marks = step_size.agreement.marks(step_size.roster.groups(), table.all_constants(), device)
    # Stages of a pipeline have collectives of their own: of theirs, one step's may be two of another's.
    reduce.pace_now = reduce.pace.count() if step_size.roster.is_of_largest_class else None
