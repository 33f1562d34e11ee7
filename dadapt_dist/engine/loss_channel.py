"""Bring the loss of a step into the sums of a method that uses it.

Beside the sums of a phase that is declared with `loss=True` travel Σ f over the ranks that gave a loss f, and their count Σ 1; a
rank that has none (a pipeline stage before the last, a rank without input) adds 0 and 0. The fold finds the mean

    loss = Σ f / Σ 1

Ranks that hold one replica of the model all hold its loss, or, in a pipeline, equally many of each replica do. With T such ranks
for each of the replicas i this is (Σ_i T·f_i) / (Σ_i T) = mean_i f_i: the mean over the data-parallel replicas, whose gradient
is the averaged gradient.

Three more numbers tell `LossChecks` whether tensor-parallel ranks gave the same loss: see `Contrast`, of f and of 1, and Σ f²/T.
"""

import logging
from numbers import Real
from typing import Any

import torch
from torch import Tensor

from ..methods.base import LOSS, Method, Scalars
from ..sharding.dtensor import is_dtensor
from ..sharding.tensor_parallel import Contrast

logger = logging.getLogger(__name__)
LOSSES = "losses"  # the count of ranks that gave one
COMPARED = ("contrast of losses", "contrast of givers", "squares of losses")
COLUMNS = (LOSS, LOSSES, *COMPARED)
HUGE = 1e150  # its square is finite, and that of many


def read(value: Any, where: str) -> Tensor | float | None:
    """The loss as a number, or as a 0-dim float64 tensor on its device; None for None. Nobody waits for a device.

    Raises:
        TypeError: It is no real number and no plain real tensor.
        ValueError: It has several elements, or none.
    """
    if value is None:
        return None
    if is_dtensor(value):
        if not all(placement.is_replicate() for placement in value.placements):
            raise TypeError(
                f"{where}: the loss is a DTensor placed as {value.placements}, a part of it on each rank: give loss.full_tensor()"
            )
        value = value.to_local()
    if isinstance(value, Tensor):
        if value.is_complex() or value.dtype is torch.bool or value.layout is not torch.strided or value.is_meta:
            raise TypeError(
                f"{where}: the loss is a tensor of {value.dtype}, {value.layout}, on {value.device}; it must be a real, "
                "dense one with one element"
            )
        if value.numel() != 1:
            raise ValueError(
                f"{where}: the loss has the shape {tuple(value.shape)}; it must be one number: give its mean, loss.mean()"
            )
        return value.detach().to(torch.float64, copy=True).reshape(())
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(
            f"{where}: the loss is of the type {type(value).__name__}; it must be a number, or a tensor with one element. Give "
            "it as step(loss=...), or return it from the closure."
        )
    return float(value)


def add(
    total: Tensor, given: Tensor | float | None, method: Method, names: dict[str, tuple[str, ...]], contrast: Contrast
) -> None:
    """Add the loss that this rank was given to its sums [n_estimates, width], which are still 0 there.

    One that is not finite makes them unusable on all ranks, also where it does not travel with these.

    Args:
        total: The sums of some phases.
        given: As `read` returns it.
        method: Whose sums these are.
        names: The names of the sums of each of these phases, in their order.
        contrast: The part of this rank.
    """
    if given is None:
        return
    if isinstance(given, Tensor):  # a copy to the host that nobody waits for may be read before it has arrived
        given = given.to(total.device, non_blocking=total.device.type != "cpu")
    at, travels = 0, False
    for phase, of_phase in names.items():
        if phase_has_loss(method, phase):
            total[:, at] = given
            total[:, at + 1] = 1.0
            if contrast.share:
                total[:, at + 2] = given * contrast.weight
                total[:, at + 3] = contrast.weight
                total[:, at + 4] = _square(given) * contrast.share
            travels = True
        at += len(of_phase)
    if not travels and names.keys() != {"start"}:
        total[:, -1] += given * 0.0  # NaN, where it is not finite


def _square(given: Tensor | float) -> Tensor | float:
    return given.abs().clamp(max=HUGE).square() if isinstance(given, Tensor) else min(abs(given), HUGE) ** 2


def phase_has_loss(method: Method, phase: str) -> bool:
    """Whether the loss travels with the sums of this phase."""
    spec = getattr(method, phase)
    return spec is not None and spec.loss


def without(sums: dict[str, Tensor], method: Method) -> Tensor:
    """The sums of some phases, {phase: [n_estimates, n]}, without the columns of the loss."""
    return torch.cat([of[:, len(COLUMNS) :] if phase_has_loss(method, phase) else of for phase, of in sums.items()], 1)


BELOW = (
    "the mean loss of a step was below {name}, the value below which it never falls: such a step moves nothing, or little. Give "
    "the optimizer a smaller {name}, such as the least value that the loss can have."
)


class LossReport:
    """Takes the mean loss out of the global sums, and warns, once, when it was smaller than can be."""

    def __init__(self) -> None:
        self._below = _Late()

    def take(self, columns: Scalars, usable: Tensor, least: str | None, constants: Scalars) -> Tensor:
        """Put the mean in the place of Σ f, and drop the rest of the loss; bool [n_estimates], whether there is one.

        Never waits for a device: what is wrong there is said in a later step.

        Args:
            columns: The global sums, [n_estimates] each; changed.
            usable: bool [n_estimates], whether they are of use.
            least: The constant that a mean loss never falls below; None where there is none.
            constants: Those of the estimates, [n_estimates] each.
        """
        count = columns.pop(LOSSES)
        for name in COMPARED:
            del columns[name]
        there = count > 0
        loss = columns[LOSS] = columns[LOSS] / torch.where(there, count, 1.0)
        if least is not None:
            self._below.note((usable & there & (loss < constants[least])).any(), BELOW.format(name=least))
        return there


class _Late:
    """A warning that is said once, of something that a device may know first: in a later step, so that nobody waits for it."""

    def __init__(self) -> None:
        self._ever: Tensor | None = None  # 0-dim bool: was it ever so?
        self._known = torch.zeros((), dtype=torch.bool, device="cpu")  # the same on the host, where it may arrive later
        self._said = False

    def note(self, found: Tensor, text: str) -> None:
        """Take note of a step. found: 0-dim bool."""
        if self._said:
            return
        self._ever = found if self._ever is None else self._ever.to(found.device) | found
        if found.device.type == "cuda" and not self._known.is_pinned():  # only a copy to pinned memory does not wait
            self._known = self._known.pin_memory()
        self._known.copy_(self._ever, non_blocking=True)
        if bool(self._known):
            self._said = True
            logger.warning(text)


def values_at(last: dict[str, float]) -> dict[str, float]:
    """The sums of one estimate as a fold sees them: with the mean in the place of all that there is of the loss."""
    count = last.pop(LOSSES, 0.0)
    for name in COMPARED:
        last.pop(name, None)
    if LOSS in last:
        last[LOSS] = last[LOSS] / count if count > 0 else 0.0
    return last
