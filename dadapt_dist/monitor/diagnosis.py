"""Find in the log of a run what probably went wrong with it, with the section of docs/troubleshooting.md that says more."""

import math
import statistics
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from . import names
from .columns import Series, span
from .run_log import RunLog
from .without_d import CURE, instead_of_d, rate_label

PAGE = "docs/troubleshooting.md"
FEWEST = 5  # records, below which nothing can be said
PATIENCE = 200  # steps after which d is to have left d0, as for the optimizer's own advice
LOW_LR = 0.05  # a peak of lr that holds d down
LARGE_D0 = 1.0
PARTS = 0.5, 0.8  # of the run: by when d is to have come near its end, and after which it is to have settled
NEAR, GROWING = 2.0, 1.5  # times
WORSE = 1.5  # times the least loss
GROWN = 10.0  # times: a d that may have ruined the loss
MANY_HELD = 30  # steps in a row
IDLE = 20  # steps with a rate of 0
RUINED = "d-explodes-or-the-loss-diverges"
SMALLER = "use recipe='auto', or d_coef=0.5 and safeguard_warmup=True, with a schedule that falls to 0"


class Symptom(NamedTuple):
    """Something that the log shows. is_error: the run is wrong, or stands still; otherwise it could be better."""

    problem: str
    cure: str
    anchor: str
    is_error: bool = False

    @property
    def page(self) -> str:
        """Where more is said."""
        return f"{PAGE}#{self.anchor}"

    def __str__(self) -> str:
        mark = "wrong" if self.is_error else "better"
        return f"{mark}: {self.problem}; {self.cure}. See {self.page}"


Symptoms = Iterator[Symptom]


def diagnose(run: RunLog, *, is_over: bool = True) -> list[Symptom]:
    """What the log of a run shows, what is wrong first.

    Args:
        run: The run.
        is_over: False leaves out what can only be said of a run that has ended.

    Raises:
        ValueError: It has no record with a step, or neither d nor what a method without d logs.
    """
    if not run.columns:
        why = f" ({run.faults[0]})" if run.faults else ""
        raise ValueError(f"{run.path} holds no record with a step{why}: give the metrics.jsonl of a run")
    if not run.columns.parts(names.D) and not instead_of_d(run.columns):
        found = ", ".join(list(run.columns.series)[:8])
        raise ValueError(f"{run.path} has nothing of an optimizer{found and f', only {found}'}: {CURE}")
    found_all = [symptom for check in CHECKS for symptom in check(run)]
    is_ruined = any(symptom.is_error and symptom.anchor == RUINED for symptom in found_all)
    if is_over and not is_ruined:  # a longer run, or a larger d0, would be no cure
        found_all += _settling(run)
    if is_over:
        found_all += _short(run)
    return sorted(found_all, key=lambda symptom: not symptom.is_error)


def verdict(symptoms: Sequence[Symptom], run: RunLog) -> str:
    """All symptoms of a run, and the faults of its log, in one line."""
    wrong = sum(symptom.is_error for symptom in symptoms)
    better = len(symptoms) - wrong + len(run.faults)
    counts = [f"{n} {what}" for n, what in ((wrong, "wrong"), (better, "could be better")) if n]
    return f"verdict: {', '.join(counts) or 'nothing wrong'}"


def summary(run: RunLog) -> str:
    """Where a run began and ended, in one line."""
    loss = run.columns.loss
    finite = loss.finite
    parts = run.columns.parts(names.D).values()
    what = "d"
    if not parts:
        what, parts = rate_label(run.columns), run.columns.parts(names.EFFECTIVE_LR).values()
    first, last = (span([one.values[place] for one in parts]) for place in (0, -1))
    said = f"loss {finite[0]:.4g} to {finite[-1]:.4g}" if finite else "no loss"
    return f"up to step {run.columns.last_step:.0f}, {said}, " + (f"{what} from {first} to {last}" if parts else "no d")


def _short(run: RunLog) -> Symptoms:
    records = max(len(one) for one in run.columns.series.values())
    if records < FEWEST:
        yield Symptom(
            f"{_counted(records, 'record')} in the log: too few to say much",
            f"log at least {FEWEST} times in a run",
            "total_steps-is-too-short",
        )


def _peak(run: RunLog) -> Symptoms:
    if instead_of_d(run.columns):  # its lr is a rate
        return
    peaks = [max(one.finite) for one in run.columns.parts(names.LR).values()]
    peak = max(peaks, default=1.0)
    if 0 < peak <= LOW_LR:
        yield Symptom(
            f"the largest lr is {peak:g}: it multiplies d, so every step is {peak:g} times the one that was found",
            "leave lr at 1.0",
            "lr-is-not-10",
            is_error=True,
        )


def _large_d0(run: RunLog) -> Symptoms:
    for part, one in run.columns.parts(names.D).items():
        first = one.finite[0]
        if first >= LARGE_D0 and one.steps[0] <= IDLE:
            yield Symptom(
                f"d{_of(part)} begins at {first:g}, and never falls", "leave d0 at 1e-6", "d0-is-too-large", True
            )


def _stuck(run: RunLog) -> Symptoms:
    for part, one in run.columns.parts(names.D).items():
        steps = one.steps[-1] - one.steps[0]
        if steps >= PATIENCE and min(one.finite) == max(one.finite):
            yield Symptom(
                f"d{_of(part)} is {one.finite[0]:g} from step {one.steps[0]:.0f} to {one.steps[-1]:.0f} and never grew",
                "leave lr at 1.0, d0 and growth_rate at their defaults, and the parameters in float32",
                "d-stays-at-d0",
                is_error=True,
            )


def _settling(run: RunLog) -> Symptoms:
    for part, one in run.columns.parts(names.D).items():
        begin, end = one.steps[0], one.steps[-1]
        if len(one) < FEWEST or end - begin < IDLE:
            continue
        half, late = (one.at(begin + share * (end - begin)) for share in PARTS)
        last = one.finite[-1]
        if late > 0 and last > GROWING * late:
            yield Symptom(
                f"d{_of(part)} still grows at the end: {last / late:.3g} times in the last fifth of the log",
                "train longer, or start nearer to it with a larger d0",
                "d-grows-late",
            )
        elif half > 0 and last > NEAR * half:
            yield Symptom(
                f"d{_of(part)} settled late: at half of the run it was {half:.3g}, and {last:.3g} at the end",
                "train longer, or start nearer to it with a larger d0",
                "d-grows-late",
            )


def _diverged(run: RunLog) -> Symptoms:
    loss = run.columns.loss
    if len(loss) and not math.isfinite(loss.last):
        yield Symptom(
            f"the loss is not finite at the end, since step {_since(loss, math.isfinite):.0f}",
            "go on from a checkpoint of before, and find the operation with torch.autograd.set_detect_anomaly(True)",
            "every-step-is-held",
            is_error=True,
        )
    if len(loss.finite) < FEWEST or not math.isfinite(loss.last):
        return
    width = max(len(loss.finite) // 20, 1)
    smooth = _medians(loss, width)
    place = min(range(len(smooth)), key=lambda i: smooth[i][1])
    (step, least), (_, last) = smooth[place], smooth[-1]
    if last <= WORSE * least or last - least <= 0.1 * abs(smooth[0][1]):
        return
    grown = max((one.finite[-1] / max(one.at(step), 1e-300) for one in run.columns.parts(names.D).values()), default=1)
    because = f", while d grew {grown:.3g} times" if grown >= GROWN else ""
    yield Symptom(
        f"the loss has risen from {least:.4g} near step {step:.0f} to {last:.4g} at the end{because}",
        "use a smaller lr, with a schedule that falls to 0" if instead_of_d(run.columns) else SMALLER,
        RUINED,
        is_error=grown >= GROWN or last > smooth[0][1],
    )


def _exploding(run: RunLog) -> Symptoms:
    """A d that grows and grows; where the loss tells of it, `_diverged` does."""
    if any(symptom.anchor == RUINED for symptom in _diverged(run)):
        return
    for part, one in run.columns.parts(names.D).items():
        half, last = one.at(one.steps[0] + PARTS[0] * (one.steps[-1] - one.steps[0])), one.finite[-1]
        if len(one) >= FEWEST and last > LARGE_D0 and 0 < half < last / GROWN:
            yield Symptom(
                f"d{_of(part)} explodes: {half:.3g} at half of the log, {last:.3g} at its end", SMALLER, RUINED, True
            )


def _held(run: RunLog) -> Symptoms:
    held, apart = (run.columns.get(name) for name in (names.HELD_STEPS, names.HELD_APART))
    count = max(held.finite, default=0.0)
    if max(apart.finite, default=0.0) > 0:
        yield Symptom(
            f"{_were(max(apart.finite))} held because {names.HELD_BECAUSE[names.HELD_APART]}",
            "start again from the last checkpoint on all ranks",
            "ranks-differ",
            is_error=True,
        )
    elif count and _held_to_the_end(held):
        yield Symptom(
            f"{_were(count)} held, also every one at the end: {names.HELD_BECAUSE[names.HELD_STEPS]}",
            "go on from a checkpoint of before it began, and find the operation",
            "every-step-is-held",
            is_error=True,
        )
    elif count:
        yield Symptom(
            f"{_were(count)} held: {names.HELD_BECAUSE[names.HELD_STEPS]}",
            "once in a while with float16 that is nothing; otherwise find the operation",
            "every-step-is-held",
        )


def _ended(run: RunLog) -> Symptoms:
    rates = run.columns.parts(names.EFFECTIVE_LR) or run.columns.parts(names.LR)
    if not rates:
        return
    since = max(_since(one, lambda value: value != 0) for one in rates.values())
    last, first = run.columns.last_step, min(one.steps[0] for one in rates.values())
    if last - since < IDLE:
        return
    if since <= first:
        yield Symptom("the learning rate was 0 in the whole log", "let the schedule rise", "lr-is-0", is_error=True)
        return
    yield Symptom(
        f"the learning rate is 0 since step {since:.0f}, and the log goes on to step {last:.0f}: the schedule is past its end",
        "give it, or total_steps, the number of optimizer.step() calls of the whole run",
        "lr-is-0",
        is_error=True,
    )


CHECKS: tuple[Callable[[RunLog], Symptoms], ...] = (
    _peak,
    _large_d0,
    _stuck,
    _diverged,
    _exploding,
    _held,
    _ended,
)
"""Those that can be said of a run that goes on."""


def _counted(number: float, what: str) -> str:
    return f"{number:.0f} {what}{'' if number == 1 else 's'}"


def _of(part: str) -> str:
    return f" of {part}" if part else ""


def _were(steps: float) -> str:
    return "1 step was" if steps == 1 else f"{steps:.0f} steps were"


def _since(one: Series, is_fine: Callable[[float], bool]) -> float:
    """The step from which on no value was fine; infinite where the last one is."""
    for place in range(len(one) - 1, -1, -1):
        if is_fine(one.values[place]):
            return one.steps[place + 1] if place + 1 < len(one) else math.inf
    return one.steps[0]


def _held_to_the_end(held: Series) -> bool:
    """Have the last steps of the log, many, all been held?"""
    end = held.steps[-1]
    start = max((step for step in held.steps if step <= end - MANY_HELD), default=None)
    return start is not None and held.last - held.at(start) >= end - start


def _medians(loss: Series, width: int) -> list[tuple[float, float]]:
    """(step, median) of neighbouring pieces of the finite losses."""
    points = [(step, v) for step, v in zip(loss.steps, loss.values, strict=True) if math.isfinite(v)]
    pieces = [points[i : i + width] for i in range(0, len(points), width)]
    return [(piece[-1][0], statistics.median(v for _, v in piece)) for piece in pieces if len(piece) == width]
