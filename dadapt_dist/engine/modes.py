"""Switch the parameters between the values that train and those that are evaluated, for methods that tell them apart."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from .. import kernels
from ..kernels import TensorTask
from ..sharding import registry
from ..sharding.dtensor import is_dtensor
from ..sharding.registry import resolve
from ..sharding.shard import LocalShard
from .exchange import check_dtypes, exchange
from .local_step import coefficients
from .members import HasModes
from .state import replaced_groups
from .state.buffers import is_unmoved
from .state.validation import EVAL, TRAIN

Group = dict[str, Any]
Noted = dict[int, tuple[int, int]]
"""Of each parameter, by id, the address of its gradient and the number of writes into it. FSDP1 makes the object anew."""


class TwoModes:
    """The two calls of an optimizer that switch its parameters between training and evaluation.

    mode: "train" or "eval". mapped: ids of the parameters that eval() has changed. noted: the gradients that there were then.
    """

    _mode = TRAIN
    _mapped: frozenset[int] = frozenset()
    _noted: Noted | None = None

    def eval(self: HasModes) -> None:
        """Let the parameters be those that are evaluated and saved, for a method that trains others (DoG with `average`).

        Nothing for every other method, and when they are so already. Call it on all ranks between the same two steps: a rank
        that is left in the other mode refuses its next step, and the others wait for it in theirs. Waits for the reduce under
        way; no collective but where a framework gathers low-precision copies. The mode is saved.

        An average of the weights takes turns with them: `train` gives every bit back, of both. Parameters that have taken no
        step yet stay. Methods with maps in the place of a buffer (Schedule-Free) leave frozen parameters as they are, too; there
        and back again changes a parameter of a narrower dtype than float64 by one unit in the last place of the larger of its
        two values at most, and no further however often it is repeated.

        Raises:
            RuntimeError: in the middle of a step.
            ValueError: the parameters, or copies of them that the framework keeps, cannot be written now.

        Example:
            >>> import torch, dadapt_dist
            >>> optimizer = dadapt_dist.Prodigy(torch.nn.Linear(2, 1).parameters())
            >>> optimizer.eval()  # evaluate, save
            >>> optimizer.train()
        """
        switch(self, EVAL)

    def train(self: HasModes, mode: bool = True) -> None:
        """Let the parameters be those that train, as they are at the start: undoes `eval`, on all ranks, before the next step.

        Args:
            mode: False is `eval()`, as of a torch module.

        Raises:
            RuntimeError, ValueError: as `eval`; and RuntimeError for gradients that were taken since, at the averaged parameters.
        """
        switch(self, TRAIN if mode else EVAL)


def refuse_step(optimizer: object) -> None:
    """Raise RuntimeError for a step whose gradients were taken at the parameters of evaluation."""
    raise RuntimeError(
        f"{type(optimizer).__name__} is in evaluation mode: its parameters are the averaged ones, at which no step can be taken. "
        "Nothing has moved. Call optimizer.train() on every rank before the forward pass of training, and optimizer.eval() "
        "before evaluation and saving."
    )


@torch.no_grad()
def switch(optimizer: HasModes, mode: str) -> None:
    """Turn every parameter that has taken a step to this mode; nothing where it is in it. Waits for the reduce under way.

    Raises:
        RuntimeError: in the middle of a step.
        ValueError: the parameters cannot be written now, or not their low-precision copies; nothing has changed.
    """
    if not optimizer._has_modes:
        return
    replaced_groups.adopt(optimizer)  # which may be of a checkpoint in the other mode
    if optimizer._mode == mode:
        return
    if mode == TRAIN:
        _refuse_mixed(optimizer)
    optimizer.step_size._settle()
    optimizer._brought_by.check_masters()
    entries = [*_mapped(optimizer)]
    places = resolve([p for _, p in entries])
    _check_in_memory(entries, places)
    check_dtypes(optimizer, entries)
    for (group, p), parts in zip(entries, places, strict=True):
        shown = optimizer._method.shown(group)
        for part in parts:
            if shown is not None:
                exchange(optimizer, p, part, shown, back=mode == TRAIN)
            elif optimizer._method.has_modes:
                _map(optimizer, group, p, part, mode)
    optimizer._mapped = frozenset(id(p) for _, p in entries) if mode == EVAL else frozenset()
    optimizer._mode, optimizer._noted = mode, _gradients(optimizer) if mode == EVAL else None
    for group in optimizer._all_groups:
        group["mode"] = mode
    registry.forget_copies([p for _, p in entries])
    optimizer._brought_by.masters_to_model()


def _gradients(optimizer: HasModes) -> Noted:
    found = {id(p): _local(p.grad) for _, p in optimizer._all_params() if p.grad is not None}
    return {key: (g.data_ptr(), g._version) for key, g in found.items()}


def _local(t: Tensor) -> Tensor:
    local: Tensor = t.to_local() if is_dtensor(t) else t
    return local._values() if local.is_sparse else local


def _refuse_mixed(optimizer: HasModes) -> None:
    """Raise RuntimeError for a backward pass in evaluation, such as in the middle of an accumulation. Gradients of 0 are none."""
    noted = optimizer._noted
    if noted is None:  # the mode is that of a checkpoint
        return
    now = _gradients(optimizer)
    for _, p in optimizer._all_params():
        if id(p) in now and now[id(p)] != noted.get(id(p)) and p.grad is not None and bool(_local(p.grad).any()):
            raise RuntimeError(
                f"a backward pass has run since {type(optimizer).__name__}.eval(): its gradients were taken at the averaged "
                "parameters, and a step would mix them with those of training. Nothing has changed. Call optimizer.zero_grad(), "
                "then train(), and run backward passes in training mode only."
            )


def _mapped(optimizer: HasModes) -> Iterator[tuple[Group, Tensor]]:
    """The parameters that the coming switch concerns: on the way back, those that were mapped, also if frozen since.

    One that takes turns with a buffer does so also where it was frozen before: it is not at its average yet.
    """
    for group, p in optimizer._all_params():
        state = optimizer.state.get(p, {})
        names = [name for name, spec in optimizer._buffers(group).items() if not spec.transient]
        if all(name in state for name in names) and not is_unmoved(optimizer, p):
            back = optimizer._mode == EVAL and optimizer._mapped
            if id(p) in optimizer._mapped if back else p.requires_grad or optimizer._method.shown(group) is not None:
                yield group, p


def _check_in_memory(entries: list[tuple[Group, Tensor]], places: list[list[LocalShard]]) -> None:
    for (_, p), parts in zip(entries, places, strict=True):
        if not all(part.is_in_memory(p) for part in parts):
            raise ValueError(
                "parameters are swapped out (NVMe), and cannot be switched between training and evaluation. Offload them to the "
                "CPU instead."
            )


def _map(optimizer: HasModes, group: Group, p: Tensor, place: LocalShard, mode: str) -> None:
    """Computed in float64, block by block, and rounded once."""
    x, state = place.part(p.detach()), optimizer.state[p]
    specs = optimizer._buffers(group)
    buf = {name: place.part(state[name]) for name in specs if not specs[name].transient}
    buf = {name: t for name, t in buf.items() if t.shape == x.shape}  # without sliced ones
    c = kernels.eager.numbers(coefficients(optimizer, group, x.device), x.device)
    to = optimizer._method.to_eval if mode == EVAL else optimizer._method.to_train
    for block in kernels.eager.blocks(TensorTask(x=x, g=x, buf=buf)):
        wide = block.x.to(torch.float64, copy=True)
        to(wide, {name: t.to(torch.float64) for name, t in block.buf.items()}, c)
        block.x.copy_(wide)
