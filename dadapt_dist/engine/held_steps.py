"""Held steps for those who log them, counted by their reason."""

from typing import Protocol

HELD, APART = "held_steps", "held_apart"


class _Held(Protocol):
    @property
    def apart(self) -> float:
        """Steps in which estimates were held because the ranks differed."""


class _Diagnostics(Protocol):
    @property
    def held(self) -> _Held:
        """The report on held steps."""


class _Layout(Protocol):
    @property
    def world_size(self) -> int:
        """How many ranks add up their sums."""


class Holding(Protocol):
    """A StepSize to those who count its held steps."""

    @property
    def held_steps(self) -> int:
        """Steps in which some estimate was held."""

    @property
    def _diagnostics(self) -> _Diagnostics:
        """What is said of the run."""

    @property
    def _layout(self) -> _Layout:
        """The ranks that the sums run over."""


def counts(step_size: Holding) -> dict[str, float]:
    """The held steps, and where there are several ranks those of them in which the ranks differed. Waits for the device.

    The first count is that of the whole run, the second begins anew in each process.
    """
    held = float(step_size.held_steps)
    if step_size._layout.world_size == 1:
        return {HELD: held}
    return {HELD: held, APART: min(step_size._diagnostics.held.apart, held)}
