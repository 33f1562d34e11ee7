"""Time a step of every method beside the memory that it must move, all in turns."""

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch

from ...methods import METHODS
from .peers import OURS
from .report import Report, Row
from .shapes import SHAPES, parameters, passes, words
from .step import limit, timed, turns

WARM_UP = 3
TOGETHER = 5  # at once in memory
COLUMNS = {
    "name": ("method", ""),
    "words": ("words", "d"),
    "ms": ("fastest ms", ".2f"),
    "limit": ("memory alone, ms", ".2f"),
    "of_limit": ("/ limit", ".2f"),
    "median": ("median / limit", ".2f"),
}
LOSS = 0.7
Call = Callable[[], Any]


def measure(shape: str, backends: Sequence[str], rounds: int, dtype: torch.dtype, device: str) -> Report:
    """Time a step of each method with the first of these backends, and the memory that it must move, in turns.

    On the CPU it is the time for which the processor was busy, which other programs disturb less. Methods over torch's own
    optimizers take no part. The fastest of all rounds is compared with the fastest of the limit.
    """
    shapes: list[tuple[int, ...]] = SHAPES[shape] if shape in SHAPES else [(int(shape),)]
    methods = [name for name, method in METHODS.items() if not method.runs_base]
    count = sum(torch.Size(s).numel() for s in shapes)
    title = f"One step of every method over {count / 1e6:.1f} million parameters in {len(shapes)} tensors, {dtype}, {device}"
    report = Report(title, COLUMNS, facts={"shape": shape, "rounds": rounds, "backend": backends[0]})
    busy = "Time for which the processor was busy. " if device == "cpu" else ""
    report.notes.append(
        f"{busy}The fastest of {rounds} rounds; {TOGETHER} methods and their limits take turns, in an order that rotates."
    )
    for first in range(0, len(methods), TOGETHER):
        report.rows += _rows(methods[first : first + TOGETHER], shapes, backends[0], rounds, device, dtype)
    return report


def _rows(
    methods: Sequence[str], shapes: list[tuple[int, ...]], backend: str, rounds: int, device: str, dtype: torch.dtype
) -> list[Row]:
    """The rows of these methods, which lie in memory at the same time. Methods that move the same words have one limit."""
    calls: dict[str, Call] = {}
    limits: dict[str, tuple[str, float]] = {}
    gradients = parameters(shapes, dtype, device)
    for method in methods:
        calls[method] = _step(method, shapes, gradients, backend, dtype, device)
        found = limit(shapes, method, device)
        if found is not None and dtype == torch.float32:
            alike = "memory alone, " + ", ".join(map(str, passes(method)))
            calls.setdefault(alike, found[1])
            limits[method] = alike, found[2]
    taken: dict[str, list[float]] = {name: [] for name in calls}
    for name in turns(list(calls), rounds + WARM_UP):
        taken[name].append(_busy(calls[name], device))
    taken = {name: times[WARM_UP:] for name, times in taken.items()}
    rows = []
    for method in methods:
        row: Row = {"name": method, "words": words(method)}
        times = taken[method]
        row |= {"ms": min(times), "times": times}
        if method in limits:
            alike, factor = limits[method]
            alone = [factor * ms for ms in taken[alike]]
            row |= {"limit": min(alone), "of_limit": min(times) / min(alone)}
            row |= {"median": statistics.median(times) / statistics.median(alone)}
        rows.append(row)
    return rows


def _step(
    method: str, shapes: list[tuple[int, ...]], like: Any, backend: str, dtype: torch.dtype, device: str
) -> Callable[[], Any]:
    """A call that steps: all methods have the same gradients, and weights of their own."""
    params = [torch.nn.Parameter(p.detach().clone()) for p in like]
    for p, other in zip(params, like, strict=True):
        p.grad = other.grad
    optimizer = OURS[method](params, backend=backend)
    return lambda: optimizer.step(loss=LOSS)


def _busy(call: Callable[[], Any], device: str) -> float:
    """Milliseconds of one call."""
    if device == "cuda":
        return timed(call, device)
    start = time.process_time()
    call()
    return (time.process_time() - start) * 1e3
