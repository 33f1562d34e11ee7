"""Warn of a run that was told how long it is, and is too short, has not found d, or goes on after its end."""

from typing import Any

import torch
from torch import Tensor

from . import advice_texts

SHORT = 50  # steps within which d is not found: no task of the suite trains well in so few
GROWING = 1.5  # times d in the last part of the run: it was still looking
PULL = 3.0  # summed weight decay of a run, above which nearly nothing of x0 is left in x, and x0 - x is x0
PARTS = 0.5, 0.8, 0.95  # of the run: when d is to have left d0, and between which it is to have settled


class RunLength:
    """Looks at a run with total_steps at some points of it. length: the number of steps; 0: not told."""

    def __init__(self, groups: list[dict[str, Any]]) -> None:
        self.length = max((group.get("total_steps") or 0 for group in groups), default=0)
        self._before: Tensor | None = None  # d at the second of PARTS

    def first(self, steps: int) -> int | None:
        """The number of steps at which to look first, after so many; None: never."""
        if not self.length:
            return None
        return steps + 1 if steps < self.length else self.length

    def look(self, advice: Any, step_size: Any) -> int | None:
        """Say what there is to say after the steps so far; returns the number of steps at which to come again."""
        steps, length = advice._steps, self.length
        if steps >= length:
            advice.say(step_size, "past its end", advice_texts.past_its_end(length))
            return None
        if length < SHORT:
            advice.say(step_size, "length", advice_texts.short(length, SHORT))
            return length
        half, late, last = (int(part * length) for part in PARTS)
        if steps < half:
            return half
        found = advice.snapshot(step_size)
        if found is None:
            return int(steps) + 1
        if steps < late:
            self._check_left(advice, step_size, found[0])
            self._check_alone(advice, step_size)
            self._check_pull(advice, step_size, float(found[0].max()))
            return late
        if steps < last:
            self._before = found[0]
            return last
        self._check_settled(advice, step_size, found[0])
        return length

    def _check_left(self, advice: Any, step_size: Any, d: Tensor) -> None:
        d0 = advice.starts(step_size)
        if bool((d == d0).any()):
            worst = int((d == d0).to(torch.float64).argmax())
            text = advice_texts.not_found(float(d0[worst]), self.length)
            advice.say(step_size, "d", text, beside=("lr", "d0", "precision"))

    def _check_alone(self, advice: Any, step_size: Any) -> None:
        groups = [group for member in step_size._roster for group in member._all_groups]
        now = max((float(group["lr"]) for group in groups), default=0.0)
        peak = max((float(group.get("initial_lr", group["lr"])) for group in groups), default=0.0)
        if now < 0.9 * peak:
            advice.say(step_size, "decays twice", advice_texts.decays_twice(self.length, now, peak))

    def _check_pull(self, advice: Any, step_size: Any, d: float) -> None:
        pulls: list[tuple[float, dict[str, Any]]] = [
            (
                group["weight_decay"]
                * group.get("initial_lr", group["lr"])
                * d
                * member._method.summed_schedule(group),
                group,
            )
            for member in step_size._roster
            for group in member._all_groups
            if group.get("weight_decay") and not member._method.coupled_decay(group)
        ]
        pull, group = max(pulls, key=lambda found: float(found[0]), default=(0.0, None))
        if group is not None and pull > PULL:
            advice.say(step_size, "pull", advice_texts.pulled(group["weight_decay"], float(pull), self.length))

    def _check_settled(self, advice: Any, step_size: Any, d: Tensor) -> None:
        if self._before is None:
            return
        growth = float((d / self._before).max())
        if growth > GROWING:
            text = advice_texts.growing(growth, self.length, PARTS[1:])
            advice.say(step_size, "growing", text, beside=("d",))
