"""Time one step beside other optimizers and the memory limit, in turns, so that all meet the same machine."""

import statistics
import time
from collections.abc import Callable, Iterator
from subprocess import SubprocessError
from typing import Any

import torch

from ...kernels import cpu_c
from .peers import OURS, peers_of
from .report import Report, ninety
from .shapes import SHAPES, parameters, passes
from .traffic import traffic

WARM_UP = 2
COLUMNS = {
    "name": ("optimizer", ""),
    "ms": ("ms", ".2f"),
    "low": ("fastest", ".2f"),
    "high": ("90 % within", ".2f"),
    "of_limit": ("/ limit", ".2f"),
    "of_adamw": ("/ fused AdamW", ".2f"),
    "state": ("state bytes/param", ".2f"),
}
Call = Callable[[], Any]


def turns(names: list[str], rounds: int) -> Iterator[str]:
    """Every name once a round, each round beginning with another: no one always follows the same one."""
    for index in range(rounds):
        shift = index % len(names)
        yield from names[shift:] + names[:shift]


def interleaved(calls: dict[str, Call], rounds: int, device: str) -> dict[str, list[float]]:
    """Milliseconds of every call, in turns; the first rounds warm up and are left out."""
    taken: dict[str, list[float]] = {name: [] for name in calls}
    for name in turns(list(calls), rounds + WARM_UP):
        taken[name].append(timed(calls[name], device))
    return {name: times[WARM_UP:] for name, times in taken.items()}


def timed(call: Call, device: str) -> float:
    """Milliseconds of one call; on a GPU between two events on its stream, which is empty before."""
    if device == "cuda":
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        torch.cuda.synchronize()
        begin.record()
        call()
        end.record()
        torch.cuda.synchronize()
        return float(begin.elapsed_time(end))
    start = time.perf_counter()
    call()
    return (time.perf_counter() - start) * 1e3


def limit(shapes: list[tuple[int, ...]], method: str, device: str) -> tuple[str, Call, float] | None:
    """A call that moves memory and computes next to nothing, and how many of it move as much as a step.

    On the CPU it reads and writes the words of a step, tensor by tensor; on a GPU it is a copy, two words an element. None
    where neither can be measured.
    """
    ways = passes(method)
    total = sum(way.words for way in ways)
    sizes = [torch.Size(shape).numel() for shape in shapes]
    name = f"memory alone, {total} words"
    if device == "cuda":
        a, b = (torch.zeros(sum(sizes), device=device) for _ in range(2))
        return name, lambda: b.copy_(a), total / 2
    if not cpu_c.available():
        return None
    most = max(way.read + way.written for way in ways)
    tensors = [[torch.randn(size) for _ in range(2 + most)] for size in sizes]

    def move() -> None:
        for way in ways:
            traffic([t[: 2 + way.read + way.written] for t in tensors], way.written, x=way.x)

    return name, move, 1.0


def measure(
    method: str,
    shape: str,
    backends: list[str],
    *,
    rounds: int,
    dtype: torch.dtype,
    device: str,
    peers: str,
    groups: int = 1,
) -> Report:
    """Time a step of every optimizer over the same tensors. shape: a key of SHAPES, or a number of parameters in one.

    groups: into how many parameter groups the tensors are dealt; no more than there are tensors.
    """
    shapes: list[tuple[int, ...]] = SHAPES[shape] if shape in SHAPES else [(int(shape),)]
    groups = min(groups, len(shapes))

    def params() -> Any:
        dealt = parameters(shapes, dtype, device)
        return [{"params": dealt[index::groups]} for index in range(groups)]

    optimizers, missing, left_out = _optimizers(method, params, backends, device, peers)
    calls: dict[str, Call] = {name: optimizer.step for name, optimizer in optimizers.items()}
    memory = limit(shapes, method, device) if dtype == torch.float32 else None
    if memory is not None:
        calls[memory[0]] = memory[1]
    taken = interleaved(calls, rounds, device)
    if memory is not None:
        taken[memory[0]] = [memory[2] * ms for ms in taken[memory[0]]]
    count = sum(torch.Size(s).numel() for s in shapes)
    title = f"One {method} step over {count / 1e6:.1f} million parameters in {len(shapes)} tensors, {dtype}, {device}"
    title += f", {groups} groups" if groups > 1 else ""
    facts = {"method": method, "shape": shape, "groups": groups, "rounds": rounds, "missing": missing}
    report = Report(title, COLUMNS, facts=facts)
    medians = {name: statistics.median(times) for name, times in taken.items()}
    for name, times in taken.items():
        report.rows.append({
            "name": name, "ms": medians[name], "low": min(times), "high": ninety(times),
            "of_limit": medians[name] / medians[memory[0]] if memory is not None else None,
            "of_adamw": medians[name] / medians["AdamW fused"],
            "state": _state_bytes(optimizers[name], count) if name in optimizers else None, "times": times,
        })  # fmt: skip
    report.notes.append(f"Medians of {rounds} rounds; all optimizers take turns, in an order that rotates.")
    report.notes += [f"Not installed: {name}" for name in missing] + left_out
    if memory is None:
        reason = "it is measured in float32" if dtype != torch.float32 else "on the CPU it needs the compiled step"
        report.notes.append(f"Without the limit of memory alone: {reason}.")
    return report


def _optimizers(
    method: str, params: Callable[[], Any], backends: list[str], device: str, peers: str
) -> tuple[dict[str, Any], list[str], list[str]]:
    """The optimizers by name; which packages are missing; and why a peer that is installed takes no part."""
    made: dict[str, Any] = {}
    missing, left_out = [], []
    for backend in backends:
        name = f"ours, {backend}"
        made[name] = OURS[method](params(), backend=backend)
    for peer in peers_of(method):
        if peers == "fused" and peer.name != "AdamW fused":
            continue
        if not peer.is_installed:
            missing.append(f"{peer.name}: pip install {peer.package.split(' ')[0]}")
        elif peer.slow and (peers != "all" or device != "cpu"):
            left_out.append(f"Left out: {peer.name}, which is for the CPU and takes minutes to build: --peers all")
        else:
            try:
                made[peer.name] = peer.make(params())
            except (ImportError, OSError, RuntimeError, SubprocessError) as error:
                reason = str(error).partition("\n")[0] or type(error).__name__
                left_out.append(f"Left out: {peer.name}, which cannot be made here: {reason}")
    return made, missing, left_out


def _state_bytes(optimizer: Any, count: int) -> float:
    tensors = [t for state in optimizer.state.values() for t in state.values() if isinstance(t, torch.Tensor)]
    return sum(t.numel() * t.element_size() for t in tensors) / count
