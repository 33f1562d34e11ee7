"""Measure the host time of placing, summing and reducing with many ranks and many tensors."""

import statistics
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Shard

import dadapt_dist

from ...comm.communicator import ShardLayout
from .report import Report
from .step import interleaved, timed

ADAMW_DTENSORS = 1000

COLUMNS = {
    "ranks": ("ranks", "d"),
    "tensors": ("tensors", "d"),
    "kind": ("parameters", ""),
    "first": ("first step, ms", ".1f"),
    "step": ("later steps, ms", ".2f"),
    "per_tensor": ("µs a tensor", ".1f"),
    "adamw": ("AdamW foreach, ms", ".2f"),
}


def measure(worlds: list[int], counts: list[int], steps: int) -> Report:
    """Time this rank's work among `ranks` simulated ones: the collectives of a fake process group return at once."""
    report = Report("Host time of a Prodigy step over tensors of 100 elements a rank, simulated ranks", COLUMNS)
    for world in worlds:
        with _ranks(world):
            for count in counts:
                for kind, make in (("plain", _plain), ("DTensor", _sharded)):
                    report.rows.append(
                        {"ranks": world, "tensors": count, "kind": kind} | _time(make, count, world, steps)
                    )
    report.notes.append("First step: placing all parameters and creating their buffers. Collectives cost nothing here.")
    report.notes.append(
        f"Without AdamW over more than {ADAMW_DTENSORS} DTensors: its first step takes minutes, more than linearly many."
    )
    return report


@contextmanager
def _ranks(world: int) -> Iterator[None]:
    """A process group whose other ranks are not there, and whose sums are as if all of them were like this one."""
    try:
        from torch.testing._internal.distributed.fake_pg import FakeStore
    except ImportError as error:
        raise RuntimeError(f"torch {torch.__version__} has no fake process group: ranks cannot be simulated") from error

    class Done:
        def wait(self) -> None:
            """It is."""

        def is_completed(self) -> bool:
            return True

    def all_reduce(layout: ShardLayout, sums: Tensor) -> Done:
        del layout
        sums.mul_(world)
        return Done()

    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=world)
    try:
        with patch.object(ShardLayout, "all_reduce", all_reduce):
            yield
    finally:
        dist.destroy_process_group()


def _plain(count: int, world: int) -> list[nn.Parameter]:
    del world
    return [nn.Parameter(torch.ones(100)) for _ in range(count)]


def _sharded(count: int, world: int) -> list[nn.Parameter]:
    mesh = init_device_mesh("cpu", (world,))
    return [nn.Parameter(DTensor.from_local(torch.ones(100), mesh, [Shard(0)])) for _ in range(count)]


def _time(make: Callable[[int, int], list[nn.Parameter]], count: int, world: int, steps: int) -> dict[str, Any]:
    params = make(count, world)
    for p in params:
        p.grad = torch.ones_like(p)
    # Copies cannot be compared among ranks that do not exist: they are given instead of found out.
    optimizer = dadapt_dist.Prodigy(params, copies=lambda p: None if isinstance(p, DTensor) else world)
    first = timed(optimizer.step, "cpu")
    calls: dict[str, Callable[[], Any]] = {"step": optimizer.step}
    if make is _plain or count <= ADAMW_DTENSORS:
        calls["adamw"] = torch.optim.AdamW(params, foreach=True).step
    taken = {name: statistics.median(times) for name, times in interleaved(calls, steps, "cpu").items()}
    return {"first": first, **taken, "per_tensor": taken["step"] * 1e3 / count}
