"""Resume DeepSpeed's ZeRO-2 after a crash: the script examples/restart.py, with DeepSpeed's checkpoints."""

from pathlib import Path

import torch.distributed as dist
from torch import Tensor

import dadapt_dist
from examples.restart import BATCH, LAYOUTS, Training, batch, main, model
from tests.helpers.deepspeed_runs import quiet_deepspeed


class ZeroTraining(Training):
    """DeepSpeed writes a folder, on all ranks; its file `latest` is not asked, since it may be half written."""

    def __init__(self) -> None:
        config = {
            "train_micro_batch_size_per_gpu": BATCH // dist.get_world_size(),
            "steps_per_print": 10**9,
            "zero_optimization": {"stage": 2},
            "scheduler": {
                "type": "WarmupLR",
                "params": {"warmup_min_lr": 0.2, "warmup_max_lr": 1.0, "warmup_num_steps": 5, "warmup_type": "linear"},
            },
        }
        deepspeed, net = quiet_deepspeed(), model()
        optimizer = dadapt_dist.Prodigy(net.parameters(), d0=1e-3, weight_decay=0.01, safeguard_warmup=True)
        self.engine, *_ = deepspeed.initialize(model=net, optimizer=optimizer, config=config)
        self.optimizer = self.engine.basic_optimizer

    def step(self, step: int) -> None:
        x, y = (part[dist.get_rank() :: dist.get_world_size()] for part in batch(step))
        self.engine.backward((self.engine(x) - y).square().mean())
        self.engine.step()

    def weights(self) -> list[Tensor]:
        return list(self.engine.module.parameters())

    def write(self, path: Path) -> None:
        self.engine.save_checkpoint(str(path), tag="all", save_latest=False)

    def read(self, path: Path) -> None:
        self.engine.load_checkpoint(str(path), tag="all")


if __name__ == "__main__":
    main({**LAYOUTS, "zero2": ZeroTraining})
