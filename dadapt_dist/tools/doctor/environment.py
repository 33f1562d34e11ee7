"""Report launcher, versions, and the time of the optimizer's reduce."""

import importlib.metadata
import platform
import statistics
import time
from collections.abc import Mapping
from datetime import timedelta

import torch
import torch.distributed as dist

from ... import kernels, launch
from ...comm.communicator import ShardLayout
from ...sharding.shard_index import home_device

PACKAGES = ("dadapt-dist", "torch", "triton", "deepspeed", "accelerate", "transformers", "lightning", "mpi4py")
ROUNDS = 20
Facts = list[tuple[str, str]]


def versions() -> Facts:
    """(package, version) of what is installed."""
    return [("python", platform.python_version()), *((name, _version(name)) for name in PACKAGES)]


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def environment(world: launch.World, env: Mapping[str, str]) -> Facts:
    """Which launcher is seen, and who this process is."""
    where = f"{env['MASTER_ADDR']}:{env['MASTER_PORT']}" if "MASTER_ADDR" in env and "MASTER_PORT" in env else "not set"
    nodes = "unknown" if world.nodes is None else str(world.nodes)
    gpus = torch.cuda.device_count()
    kind, compiled = kernels.rank_fingerprint(torch.device("cuda" if gpus else "cpu"))
    return [
        ("launcher", world.launcher),
        ("rank", f"{world.rank} of {world.world_size}; {world.local_rank} of {world.local_world_size} on this machine"),
        ("machines", nodes),
        ("MASTER_ADDR:MASTER_PORT", where),
        ("GLOO_SOCKET_IFNAME", env.get("GLOO_SOCKET_IFNAME", "not set")),
        ("GPUs", f"{gpus}, {torch.cuda.get_device_name()}" if gpus else "none"),
        ("compiled step", f"yes, for {kind}" if compiled else f"no: steps on {kind} run in plain torch, slower"),
    ]


def reduce(seconds: float) -> Facts:
    """Start torch.distributed, unless it runs, and time the optimizer's sum where it is in training. Every rank must call it.

    Raises LaunchError when the ranks do not meet, and RuntimeError when the sum is wrong.
    """
    began = not dist.is_initialized()
    world = launch.init(timeout=timedelta(seconds=seconds))
    layout = ShardLayout()
    device = layout.reduce_device(home_device([]))
    sums = torch.zeros(4, dtype=torch.float64, device=device)
    taken = []
    for _ in range(ROUNDS):
        sums.fill_(world.rank + 1)
        start = time.perf_counter()
        layout.all_reduce(sums).wait()
        sums.cpu()
        taken.append((time.perf_counter() - start) * 1e3)
    expected = world.world_size * (world.world_size + 1) / 2
    if sums.tolist() != [expected] * 4:
        raise RuntimeError(f"the sum over {world.world_size} ranks is {sums.tolist()} where it must be {expected}")
    backend = dist.get_backend()
    if began:
        dist.barrier()
        dist.destroy_process_group()
    time_taken = f"{statistics.median(taken):.2f} ms"
    return [("backend", backend), ("reduce", f"right on {world.world_size} ranks, on {device.type}, {time_taken}")]
