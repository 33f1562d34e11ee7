"""Train with prodigyopt's own class, for contrast: one d on each rank, written when the run is over.

    torchrun --nproc-per-node 2 -m dadapt_dist.tools.demo.comparison.released --sharding fsdp2 --dtype float64 ...

It takes the options of the demo's training script; --out is the folder of the file.
"""

import importlib.metadata
import json
import os
import sys
from datetime import timedelta

import torch
import torch.distributed as dist
from torch.nn import functional as F

from ....files.whole_write import write_whole
from ..common import pick_device
from ..elastic import exit_with_launcher
from ..model import SIZES, ByteModel
from ..parallel import spread
from ..progress import Progress
from ..settings import Settings, parse
from ..text import load_text


def train(settings: Settings) -> None:
    """The demo's loop, with the released optimizer as it comes; d of every rank goes into <out>/<sharding>.json."""
    released = importlib.import_module("prodigyopt")  # without types
    rank, ranks, device = dist.get_rank(), dist.get_world_size(), pick_device()
    text = load_text(settings.text, SIZES[settings.size].context)
    torch.manual_seed(settings.seed)
    whole = ByteModel(SIZES[settings.size]).to(device, getattr(torch, settings.dtype))
    model, rows = spread(whole, settings.sharding, device)
    optimizer = released.Prodigy(model.parameters(), lr=1.0)
    found = []
    with Progress(settings.steps, visible=rank == 0) as progress:
        for step in range(1, settings.steps + 1):
            inputs, targets = (rows.of(part).to(device) for part in text.batch(settings.seed, step))
            loss = F.cross_entropy(model(inputs).flatten(0, 1), targets.flatten())
            loss.backward()
            of_ranks: list[float] = [0.0] * ranks
            dist.all_gather_object(of_ranks, float(optimizer.param_groups[0]["d"]))
            found.append(of_ranks)
            optimizer.step()
            optimizer.zero_grad()
            progress.show(step, {f"d on rank {i}": d for i, d in enumerate(of_ranks)})
    if rank == 0:
        settings.folder.mkdir(parents=True, exist_ok=True)
        result = {"version": importlib.metadata.version("prodigyopt"), "d": found}
        write_whole(settings.folder / f"{settings.sharding}.json", json.dumps(result) + "\n")


def main() -> None:
    """Join the other ranks and train."""
    exit_with_launcher()
    backend = "cuda:nccl,cpu:gloo" if pick_device().type == "cuda" else "gloo"
    dist.init_process_group(backend, timeout=timedelta(minutes=5))
    train(Settings(**parse(), nproc=dist.get_world_size()))
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
    # As in train.py: torch may abort when the interpreter shuts down under gloo's threads.
    sys.stdout.flush()
    os._exit(0)
