"""Training that goes on after a crash as if nothing had happened, under DDP or FSDP2.

    torchrun --nproc-per-node 2 --max-restarts 3 examples/restart.py --layout fsdp2

Kill any of its processes, at any moment: torchrun starts all of them again, they go on from the newest checkpoint, and the
run ends with the same bits as one that was left alone. Put your own model and data in the place of `model` and `batch`.
"""

import argparse
import hashlib
import json
import os
import shutil
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel
from torch.optim.lr_scheduler import LambdaLR

import dadapt_dist
from dadapt_dist import launch

BATCH, WARM_UP = 12, 5


def model() -> nn.Module:
    """The same on every rank, by its seed."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(16, 32), nn.Tanh(), nn.Linear(32, 5))


def batch(step: int) -> tuple[Tensor, Tensor]:
    """The whole batch of a step. It depends on the step alone; state of a data loader or of dropout has to be saved too."""
    x = torch.randn(BATCH, 16, generator=torch.Generator().manual_seed(step))
    return x, torch.tanh(x[:, :5])


class Training:
    """A model under DDP; rank 0 writes a checkpoint."""

    def __init__(self) -> None:
        self.build()
        self.scheduler = LambdaLR(self.optimizer, lambda step: min(1.0, (step + 1) / WARM_UP))

    def build(self) -> None:
        """Make `model` and `optimizer`."""
        self.model: nn.Module = DistributedDataParallel(model())
        self.optimizer: Any = self.new_optimizer()

    def new_optimizer(self) -> dadapt_dist.Prodigy:
        """With a warm-up, safeguard_warmup keeps d from growing too far."""
        return dadapt_dist.Prodigy(self.model.named_parameters(), d0=1e-3, weight_decay=0.01, safeguard_warmup=True)

    def step(self, step: int) -> None:
        """One step on this rank's part of the batch."""
        x, y = (part[dist.get_rank() :: dist.get_world_size()] for part in batch(step))
        (self.model(x) - y).square().mean().backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.scheduler.step()

    def weights(self) -> list[Tensor]:
        """The whole parameters, on every rank."""
        return [p.full_tensor() if isinstance(p, DTensor) else p for p in self.model.parameters()]

    def write(self, path: Path) -> None:
        """Write everything to a file or folder of this name; called on all ranks. Optimizer.state_dict() calls no collective."""
        if dist.get_rank() == 0:
            with path.open("wb") as file:
                torch.save(
                    {name: getattr(self, name).state_dict() for name in ("model", "optimizer", "scheduler")}, file
                )
                file.flush()
                os.fsync(file.fileno())

    def read(self, path: Path) -> None:
        """Continue from what `write` wrote; called on all ranks."""
        for name, state in torch.load(path, weights_only=True).items():
            getattr(self, name).load_state_dict(state)


class ShardedTraining(Training):
    """A model under FSDP2; all ranks write a checkpoint, and another number of ranks may go on from it."""

    def build(self) -> None:
        self.model = fully_shard(model())
        self.optimizer = self.new_optimizer()

    def write(self, path: Path) -> None:
        weights, state = get_state_dict(self.model, self.optimizer)
        content = {"model": weights, "optimizer": state, "scheduler": self.scheduler.state_dict()}
        dcp.save(content, storage_writer=dcp.FileSystemWriter(path, sync_files=True))

    def read(self, path: Path) -> None:
        weights, state = get_state_dict(self.model, self.optimizer)  # the places to load into
        content = {"model": weights, "optimizer": state, "scheduler": self.scheduler.state_dict()}
        dcp.load(content, checkpoint_id=path)
        set_state_dict(self.model, self.optimizer, model_state_dict=weights, optim_state_dict=state)
        self.scheduler.load_state_dict(content["scheduler"])


class Checkpoints:
    """Checkpoints in a folder that all ranks see. One with its final name is whole: it is written aside, then renamed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def there(self) -> list[Path]:
        """From the oldest to the newest."""
        return sorted(self.folder.glob("step-????????"))

    def resume(self, training: Training) -> int:
        """Load the newest checkpoint; the number of steps that are done."""
        chosen: list[Any] = [None]
        if dist.get_rank() == 0:  # one rank looks: another might look while a file system still shows it an older state
            for left in self.folder.glob("*.part"):
                remove(left)
            chosen = [str(path) for path in self.there()[-1:]] or [None]
        dist.broadcast_object_list(chosen)
        if chosen[0] is None:
            return 0
        training.read(Path(chosen[0]))
        return int(chosen[0][-8:])

    def save(self, training: Training, done: int) -> None:
        """Write a checkpoint, and remove all but the two newest."""
        path = self.folder / f"step-{done:08}"
        aside = path.with_suffix(".part")
        training.write(aside)
        dist.barrier()  # every rank's part is on the disk
        if dist.get_rank() == 0:
            aside.rename(path)
            sync(self.folder)
            for old in self.there()[:-2]:
                remove(old)


def sync(folder: Path) -> None:
    """Wait until the names in a folder are on the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove(path: Path) -> None:
    """Remove a checkpoint, which is a file or a folder."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()


LAYOUTS: dict[str, type[Training]] = {"ddp": Training, "fsdp2": ShardedTraining}


def main(layouts: dict[str, type[Training]] = LAYOUTS) -> None:
    """Train to the end, and write d and a digest of the parameters to result.json."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--layout", choices=layouts, default="ddp")
    parser.add_argument("--folder", type=Path, default=Path("restart-out"))
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--every", type=int, default=5, help="steps between two checkpoints")
    parser.add_argument("--pause", type=float, default=0.0, help="seconds that a step takes longer")
    parser.add_argument(
        "--timeout", type=float, default=60, help="seconds after which a rank that says nothing has failed"
    )
    options = parser.parse_args()

    launch.init(
        timeout=timedelta(seconds=options.timeout)
    )  # ranks of a new attempt do not meet those of the one before
    training, checkpoints = layouts[options.layout](), Checkpoints(options.folder)
    for step in range(checkpoints.resume(training), options.steps):
        training.step(step)
        time.sleep(options.pause)
        if (step + 1) % options.every == 0:
            checkpoints.save(training, step + 1)

    weights, d = training.weights(), float(training.optimizer.d)
    if dist.get_rank() == 0:
        digest = hashlib.sha256(b"".join(w.detach().numpy().tobytes() for w in weights)).hexdigest()
        (options.folder / "result.json").write_text(json.dumps({"d": d.hex(), "weights": digest}))
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
