"""A script that every launcher starts: it trains under FSDP2, and each rank writes what it saw to DIRECTORY/rank-N.json.

FAIL_ONCE in the environment names a file: the first attempt ends by an exception, on rank 0, once this file was made.
"""

import json
import os
import sys
import time
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import fully_shard

import dadapt_dist as dd
from dadapt_dist import launch

STEPS, BATCH = 6, 12
NAMES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "GROUP_RANK")


def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 9), nn.Tanh(), nn.Linear(9, 3)).double()


def batch(step: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(step)
    x = torch.randn(BATCH, 5, generator=generator, dtype=torch.float64)
    return x, torch.tanh(x[:, :3])


def train(net: nn.Module, rank: int, size: int) -> list[float]:
    """d after each step."""
    optimizer = dd.Prodigy(net.named_parameters(), d0=1e-3)
    ds = []
    for step in range(STEPS):
        x, y = (part[rank::size] for part in batch(step))
        (net(x) - y).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        ds.append(optimizer.d)
    return ds


def main() -> None:
    world = launch.init(timeout=timedelta(seconds=float(os.environ.get("PATIENCE", "60"))))
    again = launch.init()
    if "FAIL_ONCE" in os.environ and not Path(os.environ["FAIL_ONCE"]).exists():
        dist.barrier()
        if world.rank == 0:
            Path(os.environ["FAIL_ONCE"]).touch()
            raise ZeroDivisionError("the first attempt")
        time.sleep(60)  # the launcher must end it
    net = model()
    fully_shard(net)
    found = {
        "launcher": world.launcher, "world": vars(world), "again": vars(again), "d": train(net, world.rank, world.world_size),
        "env": {name: os.environ.get(name) for name in NAMES}, "host": os.environ.get("GLOO_SOCKET_IFNAME"),
    }  # fmt: skip
    path = Path(sys.argv[1]) / f"rank-{world.rank}.json"
    path.write_text(json.dumps(found))
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
