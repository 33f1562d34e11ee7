"""Create the buffers of parameters, keep x0 up to date until the first move, and release them after freezing."""

import logging
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from torch import Tensor

from ...kernels.memory_checks import unwritable
from ...methods import Buffer
from ...options.checks import listed
from ...sharding.shard import LocalShard
from ..members import HasState
from . import param_state

logger = logging.getLogger(__name__)
WHOLE = LocalShard(tensor_key="whole", num_shards=1, shard_id="all", global_numel=0)


def prepare(optimizer: HasState) -> None:
    """Create the buffers of every trainable parameter, with or without a gradient: all ranks have the same keys.

    One that is swapped out gets them when its turn comes.
    """
    fresh = [p for group, p in optimizer._all_params() if lacks_buffers(optimizer, p, group)]
    _report_lost(optimizer, fresh)
    for group, p in optimizer._all_params():
        if lacks_buffers(optimizer, p, group):
            create(optimizer, p, group)
        elif not optimizer.state:  # a rank whose parameters are all frozen: to checkpoint tools, no state at all means
            optimizer.state[p] = {}  # that no step was taken, and they would take one on this rank alone
    if optimizer._base is not None:
        optimizer._base.prepare(optimizer)
    optimizer._unmoved &= {t for state in optimizer.state.values() for t in tensors_of(state)}


def lack_some(optimizer: HasState) -> bool:
    """Return whether buffers should be created for some parameter now."""
    if any(lacks_buffers(optimizer, p, group) for group, p in optimizer._all_params()):
        return True
    return optimizer._base is not None and not optimizer._base.is_prepared(optimizer)


def _report_lost(optimizer: HasState, fresh: list[Tensor]) -> None:
    """Say that training goes on without the state that parameters, or those in whose place they are, had before."""
    steps = optimizer.step_size.steps
    if steps == 0 or not fresh:
        return
    removed = sum(id(p) in optimizer._had_buffers for p in fresh if not optimizer.state.get(p))
    if removed:
        logger.warning("the state of %d parameters was removed: they start afresh in step %d", removed, steps)
    params = {p for _, p in optimizer._all_params()}
    keys: list[Any] = list(optimizer.state)  # wrappers keep other keys than tensors there
    left = sum(isinstance(key, Tensor) and key not in params for key in keys)
    if left and not optimizer._brought_by.replaces_parameters:
        logger.warning(
            "%d parameters are new in step %d and start afresh, while the state has entries of %d that are gone. Where one took "
            "another's place, move its state along: optimizer.state[new] = optimizer.state.pop(old)",
            len(fresh),
            steps,
            left,
        )


def needed_by(optimizer: HasState, group: Mapping[str, Any]) -> dict[str, Buffer]:
    """The buffers that a saved group needs: no transient ones, and once the estimate is frozen none that belong to it."""
    limit = optimizer.step_size.freeze_after
    frozen = limit is not None and int(group["steps"]) >= limit
    buffers = {name: buffer for name, buffer in optimizer._method.buffers(group).items() if not buffer.transient}
    return {name: buffer for name, buffer in buffers.items() if not (frozen and buffer.statistic)}


def lacks_buffers(optimizer: HasState, p: Tensor, group: dict[str, Any]) -> bool:
    """Return whether buffers should be created for this parameter now. Entries that others keep in its state do not count."""
    if not p.requires_grad or not _missing(optimizer, p, group):
        return False
    return all(place.is_in_memory(p) for place, _ in optimizer.step_size._shards.parts(p))


def _missing(optimizer: HasState, p: Tensor, group: dict[str, Any]) -> list[str]:
    state = optimizer.state.get(p, ())
    return [name for name, spec in optimizer._buffers(group).items() if name not in state and not spec.transient]


def create(optimizer: HasState, p: Tensor, group: dict[str, Any]) -> None:
    """Create the buffers of one parameter, placed like it."""
    _create(optimizer, p, group, optimizer.step_size._shards.placement(p))


def create_shown(optimizer: HasState) -> None:
    """Create the buffers of the tensors that step() is shown, before it is known where they live."""
    for group in optimizer.param_groups:
        for p in (p for p in group["params"] if _missing(optimizer, p, group)):
            _create(optimizer, p, group, WHOLE)


def _create(optimizer: HasState, p: Tensor, group: dict[str, Any], place: LocalShard) -> None:
    param_state.check_params([p], optimizer._dtypes.state, optimizer.param_groups)  # it may have been frozen until now
    param_state.check_narrow([p], optimizer._method, group, optimizer.param_groups)
    if optimizer.step_size.steps > 0 and optimizer._brought_by.replaces_parameters:
        raise ValueError(
            f"this optimizer had taken {optimizer.step_size.steps} steps before the framework put its own tensors in the place "
            f"of its parameters: d is there, but x0 and the other buffers are lost. {optimizer._brought_by.rebuild_advice}"
        )
    if why := unwritable(place.local(p)):
        raise ValueError(f"{param_state.described(p, optimizer.param_groups)} {why}.")
    specs = {name: spec for name, spec in optimizer._buffers(group).items() if not spec.transient}
    param_state.check_exchanged(p, specs, optimizer.param_groups)
    missing = _missing(optimizer, p, group)
    if len(missing) < len(specs):
        there = [name for name in specs if name not in missing]
        _check_addable(p, {name: specs[name] for name in missing}, there, optimizer.param_groups)
    cut = None if place is WHOLE else param_state.cut_of(place, group)
    made = param_state.create(p, place, {name: specs[name] for name in missing}, optimizer._dtypes, cut)
    optimizer.state[p].update(made)
    optimizer._unmoved |= {made[name] for name in missing if specs[name].init == "param"}


def _check_addable(p: Tensor, missing: dict[str, Buffer], there: list[str], groups: param_state.Groups) -> None:
    """An option that was changed may need a momentum more; what the estimate has gathered cannot be begun in the middle."""
    lost = [name for name, spec in missing.items() if spec.statistic or spec.init == "param"]
    if lost:
        raise ValueError(
            f"the state of {param_state.described(p, groups)} has {listed(there)} and lacks {listed(lost)}, without which d "
            "cannot go on. Load a checkpoint, or remove all of its state, optimizer.state.pop(p): it then starts afresh."
        )


# ---------------------------------------------------------------- x0


def make_ready(optimizer: HasState, p: Tensor, group: dict[str, Any]) -> None:
    """Create what buffers a parameter lacks, and copy it into its x0 anew until it first moves.

    Its state alone says whether it has moved: `unmoved` has the x0 that this optimizer made itself and that no step has
    used. Whatever came into the state from elsewhere (a checkpoint, a parameter whose place this one took) stays as it is.
    """
    if _missing(optimizer, p, group):
        create(optimizer, p, group)
        return
    if group.get("slice_p", 1) == 1 and not is_unmoved(optimizer, p):
        return
    place = optimizer.step_size._shards.placement(p)
    cut, specs, state = param_state.cut_of(place, group), optimizer._buffers(group), optimizer.state[p]
    if cut is not None:
        _compress(p, state, specs, place, cut)
    if is_unmoved(optimizer, p):
        param_state.anchor(p, state, place, specs, cut)


def _compress(p: Tensor, state: dict[str, Any], specs: dict[str, Buffer], place: LocalShard, cut: slice) -> None:
    """Buffers in the whole form, in which they are saved, were put into the state by somebody who read a checkpoint."""
    for name in (name for name, spec in specs.items() if spec.sliced):
        if param_state.is_whole(p, state[name], place, cut):
            state[name] = param_state.compress(state[name], place, cut)


def is_unmoved(optimizer: HasState, p: Tensor) -> bool:
    """Return whether no step has used this parameter's x0 yet."""
    return bool(optimizer._unmoved) and any(t in optimizer._unmoved for t in tensors_of(optimizer.state[p]))


def note_moved(optimizer: HasState, params: Iterable[Tensor]) -> None:
    """These parameters have moved: their x0 stays."""
    if optimizer._unmoved:
        optimizer._unmoved -= {t for p in params for t in tensors_of(optimizer.state[p])}


def note_loaded(optimizer: HasState) -> None:
    """A checkpoint was loaded: every x0 in it stays, unless it was saved before the first step."""
    optimizer._unmoved = set()
    if optimizer.step_size.steps == 0:
        for group in optimizer._all_groups:
            names = [name for name, spec in optimizer._buffers(group).items() if spec.init == "param"]
            states_of = [optimizer.state[p] for p in group["params"] if p in optimizer.state]
            optimizer._unmoved |= {state[name] for state in states_of for name in names if name in state}


def tensors_of(state: Any) -> Iterator[Tensor]:
    """The tensors among a parameter's state; none in what somebody else keeps under another key."""
    return (t for t in state.values() if isinstance(t, Tensor)) if isinstance(state, dict) else iter(())


# ---------------------------------------------------------------- the end of the estimate


def release_statistics(optimizer: HasState) -> None:
    """Drop the buffers that serve the estimate alone."""
    for group, p in optimizer._all_params():
        for name, buffer in optimizer._method.buffers(group).items():
            if buffer.statistic and p in optimizer.state:
                optimizer._unmoved.discard(optimizer.state[p].pop(name, None))
