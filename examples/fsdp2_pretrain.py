"""Pretrain a small byte transformer under FSDP2, with checkpoints that any number of ranks resume.

    torchrun --nproc-per-node 2 examples/fsdp2_pretrain.py --text book.txt --steps 200

Started again with more steps, it goes on from the newest checkpoint, with d where it was. Without --text it reads itself.
"""

import argparse
import json
import logging
from pathlib import Path
from typing import cast

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.fsdp import fully_shard

import dadapt_dist
from dadapt_dist import launch

LENGTH, BATCH, WIDTH = 32, 16, 64
log = logging.getLogger("fsdp2_pretrain")


class Bytes(nn.Module):
    """A decoder of two layers over bytes."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.places = nn.Embedding(256, WIDTH), nn.Embedding(LENGTH, WIDTH)
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(WIDTH, 4, 2 * WIDTH, dropout=0.0, batch_first=True, norm_first=True)
            for _ in range(2)
        )
        self.norm, self.out = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 256)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.tokens(ids) + self.places.weight[: ids.shape[1]]
        mask = nn.Transformer.generate_square_subsequent_mask(ids.shape[1], device=ids.device)
        for layer in self.layers:
            x = layer(x, src_mask=mask, is_causal=True)
        return cast(Tensor, self.out(self.norm(x)).clone())  # FSDP2 wants no view


def batch(text: Tensor, step: int) -> Tensor:
    """This rank's rows of the batch of a step, which depends on the step alone, so that a resumed run sees what it would have."""
    starts = torch.randint(0, len(text) - LENGTH - 1, (BATCH,), generator=torch.Generator().manual_seed(step))
    rows = torch.stack([text[start : start + LENGTH + 1] for start in starts.tolist()])
    return rows[dist.get_rank() :: dist.get_world_size()]


def main() -> None:
    """Train, show loss and d, write them to metrics.jsonl in the folder, and save a checkpoint every 50 steps and at the end."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    parser = argparse.ArgumentParser()
    parser.add_argument("--text", type=Path, default=Path(__file__))
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--folder", type=Path, default=Path("fsdp2-out"))
    options = parser.parse_args()
    if not options.text.is_file() or options.text.stat().st_size < LENGTH + 2:
        parser.error(f"--text {options.text} must be a file of at least {LENGTH + 2} bytes")
    launch.init()
    options.folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    text, model = torch.tensor(list(options.text.read_bytes())), Bytes()
    for layer in model.layers:
        fully_shard(layer)
    fully_shard(model)
    optimizer = dadapt_dist.Prodigy(model.named_parameters(), safeguard_warmup=True)

    done = 0
    if kept := sorted(options.folder.glob("step-*/.metadata")):  # a checkpoint with this file is whole
        weights, state = get_state_dict(model, optimizer)
        dcp.load({"model": weights, "optimizer": state}, checkpoint_id=kept[-1].parent)
        set_state_dict(model, optimizer, model_state_dict=weights, optim_state_dict=state)
        done = int(kept[-1].parent.name.removeprefix("step-"))
    for step in range(done + 1, options.steps + 1):
        rows = batch(text, step)
        loss = nn.functional.cross_entropy(model(rows[:, :-1]).flatten(0, 1), rows[:, 1:].flatten())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if step % 10 == 0 or step == done + 1:
            dist.all_reduce(mean := loss.detach() / dist.get_world_size())
            if dist.get_rank() == 0:
                with (options.folder / "metrics.jsonl").open("a") as file:
                    values = {"step": step, "loss": mean.item(), **dadapt_dist.log_values(optimizer)}
                    file.write(json.dumps(values) + "\n")
                log.info("step %4d   loss %.3f   d %.1e", step, values["loss"], values["d"])
        if step % 50 == 0 or step == options.steps:
            weights, state = get_state_dict(model, optimizer)
            dcp.save({"model": weights, "optimizer": state}, checkpoint_id=options.folder / f"step-{step:08}")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
