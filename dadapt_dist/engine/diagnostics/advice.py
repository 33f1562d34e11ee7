"""Warn once, on the first rank, of settings that are likely wrong, each with its cure.

Nothing here stops a run, waits for a device or calls a collective. Most checks come in the first steps and are done then;
afterwards a step costs a few comparisons. To hear none: DADAPT_DIST_ADVICE=off, or
`logging.getLogger("dadapt_dist.engine.diagnostics.advice").setLevel("ERROR")`.
"""

import itertools
import logging
import math
import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from ...options.fields import NOTHING, number
from ..members import Watched
from . import advice_texts
from .run_length import RunLength

logger = logging.getLogger(__name__)

LOW_LR = 0.05  # a peak lr at or below is a learning rate of another optimizer
APART = 200.0  # groups' lr that jump by such a factor are no relative rates; layer-wise decay goes down in small ones
LARGE_D0 = 1.0
PATIENCE = 200  # steps with gradients until d should have left d0
HELD_IN_A_ROW = 30
STILL = 20  # steps with lr 0 until it is no dip of a schedule
STILL_AT_FIRST = 200  # before any step had an lr, where a warm-up may be by epochs
FLAT = 2000  # steps after which a low lr that has never changed is no warm-up by epochs
PROBED = 16  # steps after which a first d that is probed has been found
LAST_LOOK = 1 << 20
NEVER = 1 << 62

Check = Callable[["Advice", Watched], int | None]  # returns the step at which to come again; None when it is done


class Advice:
    """What one StepSize has to say about its run. Runs that go on from a checkpoint were told most of it when they began."""

    def __init__(self) -> None:
        self._on = os.environ.get("DADAPT_DIST_ADVICE", "").lower() not in ("off", "0", "false", "no")
        self._said: set[str] = set()
        self.due = 0  # the number of steps at which there is something to check
        self._checks: list[tuple[int, Check]] | None = None
        self._steps = 0
        self._held = 0, 0.0  # (step, count) at which held steps began to come in a row
        self._first_lr = self._last_lr = 0.0
        self._copy: Tensor | None = None

    def heard(self, what: str) -> None:
        """Somebody else has said this already: "lr", "warm-up"."""
        self._said.add(what)

    def look(self, step_size: Watched, held: float) -> None:
        """Look at the run before a step. held: held steps so far, as far as the host knows."""
        if not self._on:
            self.due = NEVER
            return
        self._steps = step_size._calls
        if step_size._still in (STILL, STILL_AT_FIRST):
            _check_standstill(self, step_size)
        if self._steps >= self.due:
            self._examine(step_size)
        if held > self._held[1]:
            self._count_held(step_size, held)

    def is_counting(self, held: float) -> bool:
        """Return whether held steps may be coming in a row: every step is to be looked at."""
        return self._on and held > self._held[1]

    def say(self, step_size: Watched, what: str, text: str, *, beside: Iterable[str] = ()) -> None:
        """Warn on the first rank, once; not at all when one of `beside` was said, which has the same cause."""
        if self._said.isdisjoint({what, *beside}) and step_size._layout.rank == 0:
            logger.warning("%s", text)
        self._said.add(what)

    def _examine(self, step_size: Watched) -> None:
        if self._checks is None:
            self._first_lr = self._last_lr = max(rates(step_size), default=0.0)
            begun: list[tuple[int, Check]] = [(1, _check_start), (10, _check_lr), (PATIENCE, _check_d)]
            if step_size._scalars.method.chosen_lr:
                self._checks, self.due = [(1, _check_precision)] if self._steps == 0 else [], 1
                return
            if bool(starts(step_size).isnan().any()):  # a method without d0
                self._checks, self.due = [*begun[:2]] if self._steps == 0 else [], 1
                return
            self._checks = [*begun] if self._steps == 0 else []
            if self._steps == 0 and any(group.get("probe_d0") for group in groups(step_size)):
                self._checks.append((PROBED, _tell_probed))
            if step_size.freeze_after is not None:
                self._checks.append((step_size.freeze_after + STILL, _check_frozen))
            run = RunLength(groups(step_size))
            if (first := run.first(self._steps)) is not None:
                self._checks.append((first, run.look))
        again: list[tuple[int, Check]] = []
        for due, check in self._checks:
            later = due if self._steps < due else check(self, step_size)
            if later is not None:
                again.append((later, check))
        self._checks = again
        self.due = min((due for due, _ in again), default=NEVER)

    def _count_held(self, step_size: Watched, held: float) -> None:
        slack = 1 if step_size._scalars.device.type == "cpu" else 4  # a device's counts arrive late
        steps, count = self._steps - self._held[0], held - self._held[1]
        if count < steps - slack:
            self._held = self._steps, held
        elif steps >= HELD_IN_A_ROW and count >= HELD_IN_A_ROW:
            self.say(step_size, "held", advice_texts.held(self._steps - steps))
            self._held = 0, math.inf

    def starts(self, step_size: Watched) -> Tensor:
        """d0 of each estimate, float64 on the host."""
        return starts(step_size)

    def snapshot(self, step_size: Watched) -> Tensor | None:
        """d and k of all estimates, [2, n_estimates], on the host; None while they are on their way."""
        if self._copy is None:
            values = torch.stack([step_size._scalars.values[name] for name in ("d", "k")])
            self._copy = torch.full(values.shape, math.nan, dtype=torch.float64, device="cpu")
            if values.device.type == "cuda":
                self._copy = self._copy.pin_memory()
            self._copy.copy_(values, non_blocking=True)
        if bool(self._copy.isnan().any()):
            return None
        arrived, self._copy = self._copy, None
        return arrived


# ---------------------------------------------------------------- what the groups say


def groups(step_size: Watched) -> list[dict[str, Any]]:
    """The groups of all optimizers that share the StepSize."""
    return [group for member in step_size._roster for group in member._all_groups]


def rates(step_size: Watched) -> list[float]:
    """The present lr of each group that trains."""
    return [lr for group in groups(step_size) if (lr := _rate(group, "lr")) > 0]


def peaks(step_size: Watched) -> list[float]:
    """The largest lr of each group that trains, as far as a scheduler has written it there, or of now."""
    told = [[_rate(group, name) for name in ("max_lr", "initial_lr") if name in group] for group in groups(step_size)]
    found = [max(of, default=0.0) or _rate(group, "lr") for of, group in zip(told, groups(step_size), strict=True)]
    return [peak for peak in found if peak > 0]


def guarded(step_size: Watched) -> bool:
    """Return whether d is guarded against a warm-up, or the method needs no guard."""
    return all(map(is_guarded, groups(step_size)))


def is_guarded(group: Mapping[str, Any]) -> bool:
    """Return whether a warm-up of this group does not make d too large."""
    return group.get("safeguard_warmup") is not False or bool(group.get("same_weights"))


def starts(step_size: Watched) -> Tensor:
    """d0 of each estimate, float64 on the host."""
    table = step_size._scalars
    return torch.tensor(
        [table.constants(row).get("d0", math.nan) for row in range(len(table.names))],
        dtype=torch.float64,
        device="cpu",
    )


def _rate(group: dict[str, Any], name: str) -> float:
    value = group[name]
    on_a_device = isinstance(value, Tensor) and value.device.type != "cpu"
    read = NOTHING if on_a_device else number(value)
    return 0.0 if read is NOTHING or not math.isfinite(read) else read


# ---------------------------------------------------------------- checks


def _check_start(advice: Advice, step_size: Watched) -> None:
    """After the first step, when frameworks have put their tensors and schedules in place."""
    if (largest := float(starts(step_size).max())) >= LARGE_D0:
        advice.say(step_size, "d0", advice_texts.d0(largest))
    levels = sorted(peaks(step_size), reverse=True)
    jump = next((pair for pair in itertools.pairwise(levels) if pair[0] >= APART * pair[1]), None)
    if jump is not None and levels[0] > LOW_LR:
        advice.say(step_size, "groups", advice_texts.groups(levels[0], jump[1]))
    _check_precision(advice, step_size)


def _check_precision(advice: Advice, step_size: Watched) -> None:
    """After the first step: parameters without a float32 copy."""
    params = [
        p for member in step_size._roster for named in member._brought_by.tensors(member._all_groups) for _, p in named
    ]
    sizes: dict[torch.dtype, int] = {}
    for p in params:
        if p.requires_grad and p.is_floating_point():
            sizes[p.dtype] = sizes.get(p.dtype, 0) + p.numel()
    for dtype in (torch.bfloat16, torch.float16):
        if 2 * sizes.get(dtype, 0) > sum(sizes.values()):
            advice.say(step_size, "precision", advice_texts.precision(dtype))


def _check_lr(advice: Advice, step_size: Watched) -> int | None:
    """A low lr that is no warm-up, and a warm-up that d is not guarded against. Comes again for as long as lr rises."""
    now, peak = max(rates(step_size), default=0.0), max(peaks(step_size), default=0.0)
    first, rises = advice._first_lr, now > advice._last_lr * (1 + 1e-6)
    advice._last_lr, peak = now, max(peak, now)
    if peak <= LOW_LR or (now <= LOW_LR and now == first and advice._steps >= FLAT):
        said_by_scheduler = any("initial_lr" in group or "max_lr" in group for group in groups(step_size))
        if peak > 0 and (said_by_scheduler or not rises):
            advice.say(step_size, "lr", advice_texts.lr(peak if peak <= LOW_LR else now))
            return None
    elif rises and advice_texts.WARM_UP.is_made(first, peak, guarded(step_size)):
        advice.say(step_size, "warm-up", advice_texts.warm_up(first, peak))
    settled = now >= 0.9 * peak and now > LOW_LR and (not rises or guarded(step_size) or "warm-up" in advice._said)
    return None if settled or advice._steps > LAST_LOOK else advice._steps + max(10, advice._steps // 4)


def _check_d(advice: Advice, step_size: Watched) -> int | None:
    """d that is d0 although there were gradients at full lr for long enough."""
    peak = max(peaks(step_size), default=0.0)
    if advice._first_lr < 0.5 * peak and advice._copy is None:
        advice._first_lr = max(rates(step_size), default=0.0)  # a warm-up: count from the end of it
        return advice._steps + PATIENCE
    found = advice.snapshot(step_size)
    if found is None:
        return advice._steps + 1
    d0 = starts(step_size)
    still = found[0] == d0
    if bool((still & (found[1] >= PATIENCE)).any()):
        worst = int(still.to(torch.float64).argmax())
        growth_rate = step_size._scalars.constants(worst).get("growth_rate", math.inf)
        text = advice_texts.d(float(d0[worst]), int(found[1][worst]), growth_rate)
        advice.say(step_size, "d", text, beside=("lr", "d0", "precision"))
        return None
    return advice._steps + PATIENCE if bool(still.any()) and advice._steps < 20 * PATIENCE else None


def _tell_probed(advice: Advice, step_size: Watched) -> int | None:
    """Log, on the first rank, the first d that a probe has found."""
    found = advice.snapshot(step_size)
    if found is None:
        return advice._steps + 1
    if step_size._layout.rank == 0:
        d = ", ".join(f"{value:.3g}" for value in found[0].tolist())
        logger.info("the first steps were trials to find a first d, and the parameters were put back: d is now %s", d)
    return None


def _check_frozen(advice: Advice, step_size: Watched) -> int | None:
    """d that was frozen before it had left d0."""
    found = advice.snapshot(step_size)
    if found is None:
        return advice._steps + 1
    d0 = starts(step_size)
    if torch.equal(found[0], d0):
        text = advice_texts.frozen(step_size.freeze_after or 0, float(d0[0]))
        advice.say(step_size, "frozen", text, beside=("lr", "d0", "precision", "d"))
    advice.heard("d")
    return None


def _check_standstill(advice: Advice, step_size: Watched) -> None:
    if rates(step_size) or not groups(step_size):
        return
    if step_size._calls == 0 and step_size._still >= STILL_AT_FIRST:
        advice.say(step_size, "still", advice_texts.never_moved(STILL_AT_FIRST))
    elif step_size._calls > 0:
        advice.say(step_size, "still", advice_texts.still(step_size._calls))
