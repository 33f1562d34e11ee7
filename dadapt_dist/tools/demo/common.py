"""What the demo's loops share: constants, the optimizer's class and options, and the result at the end."""

import json
import logging
import os
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn import functional as F
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ConstantLR, LRScheduler

from dadapt_dist import monitor, optimizers, schedules
from dadapt_dist.methods import METHODS

from .parallel import Rows
from .settings import Settings
from .text import HELD_OUT_BATCHES, Text

logger = logging.getLogger("dadapt_dist.tools.demo")
WARMUP = 0.05
BITS = 1 / torch.tensor(2.0).log().item()  # of a nat; cross_entropy gives nats a byte, and people read bits a byte


def class_of(method: str) -> Callable[..., Optimizer]:
    """The optimizer class of a method, which is named as on the command line."""
    return optimizers.of_method(method.replace("-", "_"))


def has_recipe(method: str) -> bool:
    """Whether a method trains by a recipe of its own that needs no schedule."""
    found = METHODS.get(method.replace("-", "_"))  # none for AdamW
    return found is not None and "recipe" in found.options.checks()


def options(method: str, lr: float | None, steps: int) -> dict[str, Any]:
    """Keywords for the optimizer: an lr of 1.0, where there is one the recipe that needs nothing else, and norms in the log."""
    return {"lr": lr or 1.0, "grad_norms": True} | (
        {"recipe": "auto", "total_steps": steps} if has_recipe(method) else {}
    )


def schedule(optimizer: Optimizer, method: str, steps: int) -> LRScheduler:
    """Linear decay with warm-up; none for a method with a recipe, which decays by itself."""
    if has_recipe(method):
        return ConstantLR(optimizer, factor=1.0)
    return schedules.linear_decay_with_warmup(optimizer, steps, warmup=WARMUP)


def numbers(settings: Settings, loss: torch.Tensor, optimizer: Optimizer) -> dict[str, float]:
    """What is logged of a step: the loss in bits per byte, and d and its company."""
    found = {"loss": mean(loss) * BITS, **monitor.record(optimizer)}
    if settings.count_ranks:
        found["ranks_with_same_d"] = _ranks_with_d_of_rank_0(found["d"])
    return found


def _ranks_with_d_of_rank_0(d: float) -> int:
    """The number of ranks on which d has the bits that it has on rank 0."""
    mine = torch.tensor([d], dtype=torch.float64)
    of_ranks = [torch.empty_like(mine) for _ in range(dist.get_world_size())]
    dist.all_gather(of_ranks, mine)
    bits = torch.cat(of_ranks).view(torch.int64)  # compared as integers: a NaN equals itself
    return int((bits == bits[0]).sum())


def finish(settings: Settings, bits: float, optimizer: Optimizer, seconds: float) -> None:
    """Write result.json and log the held-out loss, on rank 0."""
    if dist.get_rank() == 0:
        result = {"held_out_bits_per_byte": bits, **monitor.record(optimizer), "seconds": seconds}
        (settings.folder / "result.json").write_text(json.dumps(result, indent=2) + "\n")
        logger.info("held-out loss: %.4f bits/byte", bits)


def held_out_bits(model: nn.Module, rows: Rows, text: Text, device: torch.device) -> float:
    """Mean loss on the held-out bytes in bits per byte, the same on every rank."""
    total = torch.zeros((), dtype=torch.float64, device=device)
    with torch.no_grad():
        for batch in text.held_out_batches():
            inputs, targets = (rows.of(part).to(device) for part in batch)
            total += F.cross_entropy(model(inputs).flatten(0, 1), targets.flatten())
    return mean(total) / HELD_OUT_BATCHES * BITS


def mean(value: torch.Tensor) -> float:
    """The mean of a number over all ranks; every rank has equally many rows."""
    value = value.detach().clone()
    dist.all_reduce(value)
    return value.item() / dist.get_world_size()


def pick_device() -> torch.device:
    """This rank's GPU where every rank of this machine has one, else the CPU."""
    ranks_here = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    if torch.cuda.is_available() and torch.cuda.device_count() >= ranks_here:
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
        torch.cuda.set_device(device)
        return device
    return torch.device("cpu")
