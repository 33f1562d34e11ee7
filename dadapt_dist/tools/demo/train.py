"""Train with a learning-rate-free optimizer on several processes: a whole script, to read and to copy.

    torchrun --nproc-per-node 2 -m dadapt_dist.tools.demo.train --sharding fsdp2 --method prodigy

What is special to dadapt_dist: `build_optimizer`, with lr=1.0 and the number of steps. The rest is any torch script.
Under DeepSpeed (--sharding zero1, zero2, zero3) the loop is that of train_deepspeed.py.
"""

import logging
import os
import sys
import time
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import nn
from torch.nn import functional as F
from torch.optim import AdamW, Optimizer

from dadapt_dist import LearningRateFree, monitor

from .checkpoint import Checkpoints
from .common import class_of, finish, held_out_bits, logger, numbers, options, pick_device, schedule
from .elastic import exit_with_launcher
from .model import SIZES, ByteModel
from .parallel import spread
from .progress import Progress
from .settings import Settings, parse
from .text import Text, load_text


def build_optimizer(settings: Settings, model: nn.Module) -> Optimizer:
    """The optimizer of the *wrapped* model. AdamW is here to compare with: it alone needs an lr."""
    params = model.parameters()
    if settings.method == "adamw":
        return AdamW(params, lr=settings.lr or 1e-3, weight_decay=0.0)

    return class_of(settings.method)(params, **options(settings.method, settings.lr, settings.steps))


def train(settings: Settings, text: Text) -> None:
    """Train, log, save; ends with the held-out loss in result.json. Runs on every rank."""
    if settings.zero_stage:
        from .train_deepspeed import train_zero

        return train_zero(settings, text)
    rank, device, dtype = dist.get_rank(), pick_device(), getattr(torch, settings.dtype)
    torch.manual_seed(settings.seed)  # the same weights on every rank; batches depend on (seed, step) alone
    model, rows = spread(ByteModel(SIZES[settings.size]).to(device, dtype), settings.sharding, device)
    optimizer = build_optimizer(settings, model)
    scheduler = schedule(optimizer, settings.method, settings.steps)

    checkpoints = Checkpoints(settings.folder / "checkpoints", model, optimizer, scheduler)
    start = checkpoints.load_latest() if settings.resume else 0
    if settings.resume:
        logger.info("goes on from step %d", start)
    metrics = settings.folder / "metrics.jsonl"
    log = monitor.JsonlWriter(metrics, rank=rank, resume_step=start if settings.resume else None)

    began = time.monotonic()
    with log, Progress(settings.steps, start, visible=rank == 0) as progress:
        for step in range(start + 1, settings.steps + 1):
            inputs, targets = (rows.of(part).to(device) for part in text.batch(settings.seed, step))
            loss = F.cross_entropy(model(inputs).flatten(0, 1), targets.flatten())
            loss.backward()
            if step % settings.log_every == 0 or step in (1, settings.steps):
                # Before step(), the reduce of d is long done: reading d here waits for nothing.
                logged = numbers(settings, loss, optimizer)
                log.write(step, **logged, seconds=round(time.monotonic() - began, 3))
                progress.show(step, logged)
            if isinstance(optimizer, LearningRateFree):
                optimizer.loss = loss
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()
            if step % settings.save_every == 0 or step == settings.steps:
                checkpoints.save(step)

    finish(settings, held_out_bits(model, rows, text, device), optimizer, time.monotonic() - began)
    return None


def main() -> None:
    """Check the command line, join the other ranks, train."""
    if "RANK" not in os.environ:  # started without torchrun: a world of one
        os.environ.update(RANK="0", WORLD_SIZE="1", MASTER_ADDR="localhost", MASTER_PORT="0")
    logging.basicConfig(level=logging.INFO if os.environ["RANK"] == "0" else logging.ERROR, format="%(message)s")
    try:
        settings = Settings.of(parse() | {"nproc": int(os.environ["WORLD_SIZE"])})
        text = load_text(settings.text, SIZES[settings.size].context, backwards=settings.backwards)
    except ValueError as error:
        if os.environ["RANK"] == "0":
            logger.error("error: %s", error)
        sys.exit(2)

    exit_with_launcher()
    backend = "cuda:nccl,cpu:gloo" if pick_device().type == "cuda" else "gloo"
    # A rank that dies is noticed at once, one that hangs after the timeout.
    dist.init_process_group(backend, timeout=timedelta(minutes=5))
    dist.barrier()  # all ranks have looked at the folder before one writes to it
    if dist.get_rank() == 0:
        settings.save()
    dist.barrier()
    train(settings, text)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
    # gloo's threads may still hold the last tensors; torch aborts when the interpreter shuts down under them.
    sys.stdout.flush()
    os._exit(0)
