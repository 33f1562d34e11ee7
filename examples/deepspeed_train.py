"""Train with DeepSpeed's ZeRO, the optimizer named in a JSON file: `deepspeed examples/deepspeed_train.py`, or under torchrun.

examples/deepspeed_train.json has ZeRO-2; change its "stage" to 1 or 3, and d stays the same.
"""

import json
import logging
from pathlib import Path

import deepspeed
import torch
from torch import Tensor, nn

import dadapt_dist  # makes "Prodigy" a type that DeepSpeed knows

STEPS = 60
log = logging.getLogger("deepspeed_train")


def batch(step: int, rank: int, world: int) -> tuple[Tensor, Tensor]:
    """This rank's part of a batch of 16: numbers, and which of four is the greatest."""
    x = torch.randn(16, 4, generator=torch.Generator().manual_seed(step))[rank::world]
    return x, x.argmax(1)


def main() -> None:
    """Train, show loss and d, and write them to deepspeed-out/metrics.jsonl and a checkpoint beside it."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    deepspeed.utils.logger.setLevel(logging.WARNING)
    if not torch.cuda.is_available():  # DeepSpeed would first compile an all-reduce for CPUs, for most of a minute
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    config = json.loads(Path(__file__).with_suffix(".json").read_text())
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 32), nn.ReLU(), nn.Linear(32, 4))
    deepspeed.init_distributed()
    engine, *_ = deepspeed.initialize(model=model, model_parameters=model.parameters(), config=config)
    rank, world = engine.global_rank, engine.world_size
    folder = Path("deepspeed-out")
    folder.mkdir(exist_ok=True)
    for step in range(1, STEPS + 1):
        x, y = (part.to(engine.device) for part in batch(step, rank, world))
        loss = nn.functional.cross_entropy(engine(x), y)
        engine.backward(loss)
        engine.step()
        if rank == 0:
            values = {"step": step, "loss": loss.item(), **dadapt_dist.log_values(engine)}
            with (folder / "metrics.jsonl").open("w" if step == 1 else "a") as file:
                file.write(json.dumps(values) + "\n")
            if step == 1 or step % 10 == 0:
                log.info("step %3d   loss %.3f   d %.1e", step, values["loss"], values["d"])
    engine.save_checkpoint(str(folder))


if __name__ == "__main__":
    main()
