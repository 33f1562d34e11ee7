"""Trains over MPI, without torch.distributed, in every way that test_mpi.py compares; rank N writes DIRECTORY/rank-N.pt.

SINGLE in the environment starts MPI for one thread.
"""

import copy
import os
import sys
import time
from pathlib import Path
from typing import Any

import mpi4py

if "SINGLE" in os.environ:
    mpi4py.rc.thread_level = "single"

import torch
from mpi4py import MPI
from torch import Tensor, nn

import dadapt_dist as dd
from dadapt_dist.comm.mpi import MPILayout, MPISum

from . import layout_runs
from .classes import ALWAYS_BEFORE, IN_ONE_GO, make, method_of

STEPS = 8
SHAPES = [(6, 4), (7,), (3, 2)]
FIRST = 1e-2  # d, or near it

WAYS = [way for way in layout_runs.WAYS if method_of(way[0]) in IN_ONE_GO]


def starts() -> list[Tensor]:
    return [
        torch.randn(shape, generator=torch.Generator().manual_seed(i), dtype=torch.float64)
        for i, shape in enumerate(SHAPES)
    ]


def gradients(step: int, params: list[Tensor]) -> list[Tensor]:
    """A noisy quadratic's, the same on all ranks."""
    noise = torch.Generator().manual_seed(100 + step)
    return [p.detach() - 3 + torch.randn(p.shape, generator=noise, dtype=torch.float64) for p in params]


def rows(t: Tensor, rank: int, size: int) -> Tensor:
    """This rank's piece of a tensor: cut along the first axis, unevenly."""
    return t.tensor_split(size)[rank].clone()


class Run:
    """One optimizer over MPI. shards: each rank holds its own rows; else all hold the whole model."""

    def __init__(self, method: str, layout: MPILayout, shards: bool, **shared: Any) -> None:
        self.layout, self.shards = layout, shards
        self.params = [nn.Parameter(self.own(t)) for t in starts()]
        step_size = dd.StepSize(process_group=layout, copies=(lambda p: 1) if shards else None, **shared)
        self.optimizer = make(method, self.params, FIRST, step_size=step_size)
        self.d: list[str] = []

    def own(self, t: Tensor) -> Tensor:
        return rows(t, self.layout.rank, self.layout.world_size) if self.shards else t.clone()

    def whole(self) -> list[Tensor]:
        if not self.shards:
            return [p.detach().clone() for p in self.params]
        pieces = self.layout.all_gather_object([p.detach() for p in self.params])
        return [torch.cat(of_ranks) for of_ranks in zip(*pieces, strict=True)]

    def step(self, step: int) -> None:
        for p, g in zip(self.params, gradients(step, self.whole()), strict=True):
            p.grad = self.own(g)
        self.optimizer.step()
        self.d.append(self.optimizer.d.hex())

    def steps(self, first: int, last: int) -> "Run":
        for step in range(first, last):
            self.step(step)
        return self


def every_method(layout: MPILayout) -> dict[str, Any]:
    found = {}
    for method, before in WAYS:
        for shards in (False, True):
            run = Run(method, layout, shards, before=before).steps(0, STEPS)
            found[method, before, "shards" if shards else "replicas"] = (run.d, run.whole())
    return found


def counted(layout: MPILayout) -> dict[Any, list[int]]:
    """Reductions that each step of a method has started."""
    found: dict[Any, list[int]] = {}
    original = MPILayout.all_reduce

    def all_reduce(self: MPILayout, sums: Tensor) -> MPISum:
        counts[-1] += 1
        return original(self, sums)

    MPILayout.all_reduce = all_reduce  # type: ignore[method-assign]
    try:
        for method, before in WAYS:
            counts = found[method, before] = []
            run = Run(method, layout, True, before=before)
            for step in range(4):
                counts.append(0)
                run.step(step)
    finally:
        MPILayout.all_reduce = original  # type: ignore[method-assign]
    return found


def exposed(layout: MPILayout) -> tuple[float, float]:
    """Seconds that a step takes on rank 0 while the others come 0.3 s late, and that reading d then takes."""
    run = Run("prodigy", layout, False).steps(0, 2)
    if layout.rank > 0:
        time.sleep(0.3)
    for p in run.params:
        p.grad = torch.ones_like(p)
    start = time.perf_counter()
    run.optimizer.step()
    middle = time.perf_counter()
    assert run.optimizer.d > 0
    return middle - start, time.perf_counter() - middle


def resumed(layout: MPILayout, method: str) -> tuple[list[str], list[str]]:
    whole = Run(method, layout, True).steps(0, 4)
    saved, weights = copy.deepcopy(whole.optimizer.state_dict()), [p.detach().clone() for p in whole.params]
    whole.steps(4, STEPS)
    other = Run(method, layout, True)
    with torch.no_grad():
        for p, w in zip(other.params, weights, strict=True):
            p.copy_(w)
    other.optimizer.load_state_dict(saved)
    return whole.d[4:], other.steps(4, STEPS).d


def skipped(layout: MPILayout) -> tuple[bool, int]:
    """nonfinite="skip", with a NaN on rank 1 alone: did anything move here, and how many steps were held?"""
    run = Run("prodigy", layout, True, nonfinite="skip", sync="step").steps(0, 2)
    before = [p.detach().clone() for p in run.params]
    for p in run.params:
        p.grad = torch.full_like(p, float("nan") if layout.rank == 1 else 1.0)
    run.optimizer.step()
    return all(torch.equal(p, b) for p, b in zip(run.params, before, strict=True)), int(
        run.optimizer.step_size.held_steps
    )


def main() -> None:
    layout = MPILayout()
    found: dict[str, Any] = {
        "threads": MPI.Query_thread() == MPI.THREAD_MULTIPLE,
        "distributed": torch.distributed.is_initialized(),
    }
    found["runs"] = every_method(layout)
    found["counted"], found["skipped"] = counted(layout), skipped(layout)
    found["resumed"] = [resumed(layout, method) for method in ("dadapt_adam", *ALWAYS_BEFORE) if method in IN_ONE_GO]
    found["exposed"] = exposed(layout)
    torch.save(found, Path(sys.argv[1]) / f"rank-{layout.rank}.pt")


if __name__ == "__main__":
    main()
