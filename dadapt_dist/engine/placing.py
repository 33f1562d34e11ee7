"""What all ranks agree on before the first step, and again after parameters, state or ranks have changed."""

from collections.abc import Iterable
from functools import partial
from typing import Any, Protocol

import torch

from .. import kernels
from ..comm.async_all_reduce import Reduce
from ..methods.base import PHASES
from ..options.checks import Before, NonFinite
from ..sharding.rank_claims import Claims
from ..sharding.shard_index import ShardIndex, home_device
from ..sharding.tensor_parallel import contrast
from . import clipping
from .diagnostics.run_diagnostics import RunDiagnostics
from .grad_norms import GradNorms
from .loss_checks import LossChecks
from .members import Watched
from .per_tensor import check_tensors
from .settings import SHARED
from .step_pieces import check_pieces
from .tensor_rms import TensorRms


class Watches(Protocol):
    """The part of a StepSize in a `Join`."""

    def watch(self, modules: Iterable[Any]) -> None:
        """See when one of these DDP modules is in a `Join` that this StepSize is not in."""


class Placeable(Watched, Protocol):
    """A StepSize whose parameters are to be placed."""

    nonfinite: NonFinite | None
    before: Before
    clip_norm: float | None
    _per_tensor: bool
    _norms: GradNorms | None
    _rms: TensorRms | None

    @property
    def _shards(self) -> ShardIndex:
        """Where the parameters live."""

    @property
    def _reduce(self) -> Reduce:
        """The reduce of a step."""

    @property
    def _diagnostics(self) -> RunDiagnostics:
        """What is said of the run."""

    @property
    def _joining(self) -> Watches:
        """Its part in a `Join`."""

    @property
    def _losses(self) -> LossChecks:
        """What is wrong with the losses of the steps."""


def place(step_size: Placeable) -> None:
    """Find where all parameters live, agree on what has to stay equal, and count steps from here; a collective call.

    Raises PlacementError on all ranks alike.
    """
    roster, shards = step_size._roster, step_size._shards
    table, agreement = step_size._scalars, step_size._agreement
    agreement.begin(table.all_constants()[0], set().union(*(member.defaults for member in roster)))
    shards.tells_apart = any(table.method.needs_rms(group) for group in roster.groups())
    shared = [getattr(step_size, name) for name in SHARED]
    agreement.begin_settings(shared)
    claims = Claims(
        (*table.configuration(), *shared, shards.tells_apart, step_size._norms is not None),
        table.fingerprint(),
        dict(zip(agreement.options, agreement.digests(roster.groups()), strict=True)),
    )
    roster.place(claims, partial(_check, step_size), kernels.rank_fingerprint)
    agreement.settle(
        shards.classes,
        step_size._layout.rank,
        shards.suspects,
        witnessed=shards.is_witnessed and step_size._layout.world_size > 1,
    )
    home = home_of(step_size)
    table.to(home)
    step_size._diagnostics.begin(step_size, home)
    step_size._reduce.restart(home, _widest(step_size), len(agreement.names()), agreement.n_witnessed)
    if table.method.wants_loss:
        layout = step_size._layout
        shards.contrast = contrast(roster.params(), layout, layout.reduce_device(torch.device("cpu")))
        step_size._losses.begin(shards.contrast.groups)
    measure_rms(step_size)
    for member in roster:
        member._bind_groups()
        member._prepare()
    step_size._joining.watch(shards.modules)


def _widest(step_size: Placeable) -> int:
    """How many numbers the largest reduce of a step has as its sums, of which all may be lagged at any time."""
    table = step_size._scalars
    riders = step_size._shards.n_tensors + 2 * (step_size._norms is not None) + clipping.riders(table)
    return len(table.names) * table.width(PHASES) + riders


def measure_rms(step_size: Placeable) -> None:
    """Measure the root mean square of every tensor, where the method's step depends on it; a collective call then."""
    shards, table, reduce = step_size._shards, step_size._scalars, step_size._reduce
    step_size._rms = None
    if shards.tells_apart:
        first = len(table.names) * table.width(("after",))
        place, width = slice(first, first + shards.n_tensors), reduce.width + 1 + reduce.agreement.size
        step_size._rms = TensorRms(shards, step_size._roster.params(), table.device, step_size._layout, place, width)
        table.begin(step_size._rms.overall())


def _check(step_size: Placeable) -> None:
    """Raise for what this rank cannot do, which reaches the others."""
    check_pieces(step_size._roster, step_size.nonfinite)
    clipping.check_whole(step_size._roster, step_size.clip_norm)
    if step_size._per_tensor:
        check_tensors([*step_size._roster])


def home_of(step_size: Placeable) -> torch.device:
    """Where the parameters live."""
    return home_device(step_size._roster.params())


def mark(step_size: Placeable) -> None:
    """Let the coming reduce tell the other ranks of this one's options and of its model's steps."""
    reduce, table = step_size._reduce, step_size._scalars
    device = step_size._layout.reduce_device(table.device)
    reduce.agreement.marks = step_size._agreement.marks(step_size._roster.groups(), table.all_constants(), device)
    # Stages of a pipeline have collectives of their own: of theirs, one step's may be two of another's.
    reduce.pace_now = reduce.pace.count() if step_size._shards.is_of_largest_class else None
