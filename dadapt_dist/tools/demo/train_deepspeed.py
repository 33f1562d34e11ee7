"""Train with a learning-rate-free optimizer under DeepSpeed: the demo's loop for --sharding zero1, zero2 and zero3.

What is special to dadapt_dist: the optimizer's entry in the config, with the number of steps. The rest is any DeepSpeed script.
"""

import os
import time
import warnings
from typing import Any

import torch
import torch.distributed as dist
from torch.nn import functional as F

from dadapt_dist import LearningRateFree, monitor

from .common import class_of, finish, held_out_bits, logger, numbers, options, pick_device, schedule
from .model import SIZES, ByteModel
from .parallel import Rows
from .progress import Progress
from .settings import Settings
from .text import BATCH, Text


def config_of(settings: Settings) -> dict[str, Any]:
    """What would stand in a JSON file; configs/deepspeed/ has commented ones."""
    if settings.method == "adamw":  # torch_adam: not DeepSpeed's own kernel, which would be compiled first
        entry = {"type": "AdamW", "params": {"lr": settings.lr or 1e-3, "weight_decay": 0.0, "torch_adam": True}}
    else:
        params = options(settings.method, settings.lr, settings.steps)
        entry = {"type": class_of(settings.method).__name__, "params": params}
    return {
        "train_micro_batch_size_per_gpu": BATCH // settings.nproc,
        "optimizer": entry,
        "gradient_clipping": 0.0,  # always said: the default is 1.0 in some releases and 0 in others
        "zero_optimization": {"stage": settings.zero_stage, "reduce_bucket_size": 5_000_000},
        "steps_per_print": 10**9,
    }


def train_zero(settings: Settings, text: Text) -> None:
    """As train.train, by DeepSpeed's engine: forward, backward, step, save_checkpoint, load_checkpoint."""
    rank, device = dist.get_rank(), pick_device()
    deepspeed = load_deepspeed(device)
    torch.manual_seed(settings.seed)  # the same weights on every rank; batches depend on (seed, step) alone
    model, rows = ByteModel(SIZES[settings.size]), Rows(rank, dist.get_world_size())
    engine, *_ = deepspeed.initialize(
        model=model,
        model_parameters=model.parameters(),
        config=config_of(settings),
        lr_scheduler=lambda optimizer: schedule(optimizer, settings.method, settings.steps),
    )
    checkpoints, start = str(settings.folder / "checkpoints"), 0
    if settings.resume:
        if (settings.folder / "checkpoints" / "latest").exists():  # written last: what it names is whole
            _, saved = engine.load_checkpoint(checkpoints)
            start = saved["step"]
        logger.info("goes on from step %d", start)
    metrics = settings.folder / "metrics.jsonl"
    log = monitor.JsonlWriter(metrics, rank=rank, resume_step=start if settings.resume else None)

    began = time.monotonic()
    with log, Progress(settings.steps, start, visible=rank == 0) as progress:
        for step in range(start + 1, settings.steps + 1):
            inputs, targets = (rows.of(part).to(device) for part in text.batch(settings.seed, step))
            loss = F.cross_entropy(engine(inputs).flatten(0, 1), targets.flatten())
            engine.backward(loss)
            if step % settings.log_every == 0 or step in (1, settings.steps):
                logged = numbers(settings, loss, engine.basic_optimizer)
                log.write(step, **logged, seconds=round(time.monotonic() - began, 3))
                progress.show(step, logged)
            if isinstance(engine.basic_optimizer, LearningRateFree):
                engine.basic_optimizer.loss = loss
            engine.step()  # steps the schedule and clears the gradients, too
            if step % settings.save_every == 0 or step == settings.steps:
                engine.save_checkpoint(checkpoints, tag=f"step-{step:08d}", client_state={"step": step})

    bits = held_out_bits(engine, rows, text, device)
    finish(settings, bits, engine.basic_optimizer, time.monotonic() - began)
    engine.destroy()


def load_deepspeed(device: torch.device) -> Any:
    """Import DeepSpeed with little to say and, without a GPU, nothing to compile."""
    if device.type == "cpu":
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    import deepspeed

    deepspeed.utils.logger.setLevel("ERROR")
    if device.type == "cpu":  # a faster all-reduce between processes of one machine, built for most of a minute
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    # DeepSpeed calls torch by names that a newer torch calls deprecated, at every step.
    warnings.filterwarnings("ignore", message=r".*torch\.distributed\.\w+` is deprecated", category=FutureWarning)
    return deepspeed
