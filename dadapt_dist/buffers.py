"""Which buffers does an optimizer create, and when?"""

from typing import TYPE_CHECKING, Any

from torch import Tensor

from . import state as states
from .adapters import Placement
from .kernels.memory import lacking

if TYPE_CHECKING:
    from .optimizer import LearningRateFree

WHOLE = Placement(signature="whole", shards=1, piece="all", numel=0)


def prepare(optimizer: "LearningRateFree") -> None:
    """Create the buffers of every trainable parameter, with or without a gradient: all ranks have the same keys.

    One that is swapped out gets them when its turn comes.
    """
    for group, p in optimizer.all_params():
        if lacks_buffers(optimizer, p):
            create(optimizer, p, group)
        elif not optimizer.state:  # a rank whose parameters are all frozen: to checkpoint tools, no state at all means
            optimizer.state[p] = {}  # that no step was taken, and they would take one on this rank alone


def lacks_buffers(optimizer: "LearningRateFree", p: Tensor) -> bool:
    """Should buffers be created for this parameter now?"""
    if not p.requires_grad or optimizer.state.get(p):
        return False
    return all(place.is_in_memory(p) for place, _ in optimizer.step_size.roster.parts(p))


def create(optimizer: "LearningRateFree", p: Tensor, group: dict[str, Any]) -> None:
    """Create the buffers of one parameter, placed like it."""
    _create(optimizer, p, group, optimizer.step_size.roster.placement(p))


def create_shown(optimizer: "LearningRateFree") -> None:
    """Create the buffers of the tensors that step() is shown, before it is known where they live."""
    for group in optimizer.param_groups:
        for p in (p for p in group["params"] if not optimizer.state.get(p)):
            _create(optimizer, p, group, WHOLE)


def _create(optimizer: "LearningRateFree", p: Tensor, group: dict[str, Any], place: Placement) -> None:
    if optimizer.step_size.steps > 0 and optimizer.delivery.replaces_parameters:
        raise ValueError(
            f"this optimizer had taken {optimizer.step_size.steps} steps before the framework put its own tensors in the place "
            "of its parameters: d is there, but x0 and the other buffers are lost. Give DeepSpeed a new optimizer, and load a "
            "checkpoint with engine.load_checkpoint."
        )
    if lack := lacking(place.local(p)):
        raise ValueError(f"{states.described(p, optimizer.param_groups)} {lack}. Step while the memory is there.")
    cut = None if place is WHOLE else states.cut_of(place, group)
    optimizer.state[p] = states.create(p, place, optimizer.buffers(group), optimizer.dtypes, cut)


def anchor(optimizer: "LearningRateFree", p: Tensor, group: dict[str, Any]) -> None:
    """Copy a parameter that has not moved yet into its x0."""
    place = optimizer.step_size.roster.placement(p)
    states.anchor(p, optimizer.state[p], place, optimizer.buffers(group), states.cut_of(place, group))


def release_statistics(optimizer: "LearningRateFree") -> None:
    """Drop the buffers that serve the estimate alone."""
    for group, p in optimizer.all_params():
        for name, buffer in optimizer.method.buffers(group).items():
            if buffer.statistic and p in optimizer.state:
                optimizer.state[p].pop(name, None)
