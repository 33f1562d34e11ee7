"""Refuse steps whose losses are wrong, on all ranks alike: no rank gave one, or ranks that hold one replica gave different ones.

What is wrong follows from the global sums, the same bits on every rank. Where these are known before anything moves, the step
itself is refused. Where they ride in the reduce that the next step hides, the next step is, before anything of it moves.

Nobody waits for a device whose run is right. A rank that gave a loss knows that not all are missing, so that those alone ask who
gave none. How far tensor-parallel ranks differ is read one step late from a device, on all ranks in the same step.
"""

import math
from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from ..comm.async_all_reduce import Reduce
from ..kernels import eager
from . import loss_channel
from .estimate_state import ScalarTable
from .local_step import Window
from .members import Roster
from .step_pieces import in_pieces

TOLERANCE = 0.01  # of a loss: bfloat16 rounds by up to 0.008
COMPLETE = 1e-6  # of the contrast of the ranks that gave one: 0 up to rounding where all or none of each group did

MISSING = (
    "no rank gave the loss of a step in which there were gradients, and this method needs it. Give it with step(closure), whose "
    "closure returns it, or step(loss=loss). Where a framework calls step(), set dadapt_dist.base_optimizer(optimizer).loss = "
    "loss before, in every step."
)
DIFFERS = (
    "the ranks of a tensor-parallel group gave losses of one step that differ by about {spread:.3g}; the mean of all ranks is "
    "{mean:.6g}. Such ranks hold one replica of the model together, and have to see the same batch: give all ranks of a group "
    "the same input, by a sampler that counts data-parallel ranks alone. If each of them has a part of the loss, average it over "
    "the group before you give it."
)
AGAIN = " Nothing has moved in this step, on any rank: it can be taken again."
LATE = " It was the step before, whose losses are known only now. Nothing has moved in the present one: it can be taken again."


class Checked(Protocol):
    """A StepSize whose steps are checked."""

    _explicit: bool
    _roster: Roster

    @property
    def _scalars(self) -> ScalarTable:
        """The scalars of the estimates."""

    @property
    def _reduce(self) -> Reduce:
        """The reduce of a step."""


class LossChecks:
    """What is wrong with the losses of the steps of one StepSize. A copy begins anew."""

    def __init__(self) -> None:
        self._groups = 0  # tensor-parallel ones, over all ranks
        self._late: str | None = None  # what was wrong in a step that is over
        self._sent: tuple[Tensor, Any] | None = None  # on its way to the host, and the event after which it is there

    def __reduce__(self) -> tuple[type["LossChecks"], tuple[()]]:
        return LossChecks, ()

    def begin(self, groups: int) -> None:
        """Take note, on all ranks alike, of how many tensor-parallel groups there are."""
        self._groups = groups
        self.forget()

    def forget(self) -> None:
        """All ranks begin from another state: nothing of the steps before is to be said."""
        self._late = self._sent = None

    def check(self, table: ScalarTable, sums: Tensor, phases: Sequence[str], gave: bool) -> None:
        """Raise ValueError for the losses of the coming step; arguments as of `fault`."""
        text = self.fault(table, sums, phases, gave)
        if text is not None:
            raise ValueError(text)

    def note(self, table: ScalarTable, sums: Tensor, phases: Sequence[str], gave: bool) -> None:
        """Let `refuse_late` speak of the losses of a step that has moved; arguments as of `fault`."""
        text = self._found(table, sums, phases, gave)
        self._late = self._late or text

    def refuse_late(self) -> None:
        """Raise ValueError, once, for the losses of the step before, with nothing of the coming one done."""
        text, self._late = self._late, None
        if text is not None:
            self._sent = None
            raise ValueError(text + LATE)

    def check_alone(self, step_size: Checked, window: Window) -> None:
        """Raise ValueError where this process knows by itself that the coming step has no loss, whenever its sums count.

        To be called where no loss was given before. With several optimizers, or pieces of a step, one may come with the others.
        """
        members = [*step_size._roster]
        if step_size._reduce.ranks > 1 or len(members) > 1 or step_size._explicit or in_pieces(members[0]):
            return
        has_loss = any(loss_channel.phase_has_loss(step_size._scalars.method, phase) for phase in window.phases)
        if has_loss and not (window.overflows is not None and bool(window.overflows)):
            self.check(step_size._scalars, members[0]._rehearse(window.phases), window.phases, False)

    def fault(self, table: ScalarTable, sums: Tensor, phases: Sequence[str], gave: bool) -> str | None:
        """What is wrong with the losses of the coming step; None: nothing, as far as is known. The same on all ranks.

        Args:
            table: The scalars.
            sums: The global sums of these phases.
            phases: As of `ScalarTable.apply`.
            gave: Did this rank give a loss?
        """
        text = self._found(table, sums, phases, gave)
        if text is None:
            return None
        self._sent = None
        return text + AGAIN

    def _found(self, table: ScalarTable, sums: Tensor, phases: Sequence[str], gave: bool) -> str | None:
        at = 0
        for phase in phases:
            width = len(table.names_of(phase))
            if loss_channel.phase_has_loss(table.method, phase):
                found = sums[:, at : at + width]
                if not gave and _is_missing(found, _is_finite(sums) & table._awaits(phase)):
                    return MISSING
                return self._compare(found[0]) if self._groups else None
            at += width
        return None

    def _compare(self, found: Tensor) -> str | None:
        """Whether ranks of one replica differ, in these sums, or on a device in those of the call before."""
        numbers = found[: len(loss_channel.COLUMNS)]
        if eager.readable(numbers.device):
            return self._text(numbers)
        ready, self._sent = self._sent, _send(numbers)
        if ready is None:
            return None
        numbers, event = ready
        if event is not None:
            event.synchronize()  # of a step ago: the device has long been there
        return self._text(numbers)

    def _text(self, numbers: Tensor) -> str | None:
        total, count, contrast, givers, squares = map(float, numbers)
        known = squares < loss_channel.HUGE and abs(givers) < COMPLETE
        if known and abs(contrast) > TOLERANCE * math.sqrt(squares):
            spread = math.sqrt(2 / self._groups) * abs(contrast)
            return DIFFERS.format(spread=spread, mean=total / count)
        return None


def _is_finite(sums: Tensor) -> Tensor:
    return (sums[:, -1] == 0) & torch.isfinite(sums).all(1)


def _is_missing(found: Tensor, usable: Tensor) -> bool:
    """Whether gradients came without any loss. Waits for the device. found: the sums of a phase, [n_estimates, width]."""
    others = found[:, len(loss_channel.COLUMNS) :]
    # 0 in a step that overflowed, or without gradients
    trains = others.any(1) if others.shape[1] else torch.ones_like(usable)
    return bool((usable & (found[:, 1] == 0) & trains).any())


def _send(numbers: Tensor) -> tuple[Tensor, Any]:
    """A copy on the host that nobody waits for, and the event after which it is there; None where it is there already."""
    if numbers.device.type != "cuda":
        return numbers.to("cpu", copy=True), None
    host = torch.empty(numbers.shape, dtype=numbers.dtype, pin_memory=True)
    host.copy_(numbers, non_blocking=True)
    event = torch.cuda.Event()
    event.record(torch.cuda.current_stream(numbers.device))
    return host, event
