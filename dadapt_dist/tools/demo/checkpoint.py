"""Checkpoints that survive a kill at any moment: written aside, then renamed; the last two are kept."""

import os
import shutil
from pathlib import Path
from typing import Any

import torch.distributed as dist
from torch import nn
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

KEPT = 2


class Checkpoints:
    """Checkpoints of a model, its optimizer and its schedule in a folder, readable on any number of ranks and layout.

    All ranks call every method. The folder must be one that all ranks see.
    """

    def __init__(self, folder: Path, model: nn.Module, optimizer: Optimizer, scheduler: LRScheduler) -> None:
        self.folder, self.model, self.optimizer, self.scheduler = folder, model, optimizer, scheduler

    def steps(self) -> list[int]:
        """Steps of the whole checkpoints, oldest first."""
        return sorted(int(p.name.removeprefix("step-")) for p in self.folder.glob("step-*"))

    def save(self, step: int) -> None:
        """Write step-<step>; a kill at any point leaves the earlier checkpoints as they were."""
        final, part = self._path(step), self.folder / f"part-{step:08d}"
        save(self._state(), checkpoint_id=part)  # returns on every rank once all have written
        if dist.get_rank() == 0:
            os.rename(part, final)
            self._clean()
        dist.barrier()

    def load_latest(self) -> int:
        """Load the newest checkpoint in place and return its step; 0, and nothing loaded, when there is none."""
        newest = [self.steps()[-1] if self.steps() else 0]
        dist.broadcast_object_list(newest)  # rank 0 decides
        if newest[0] == 0:
            return 0
        state = self._state()
        load(state, checkpoint_id=self._path(newest[0]))
        set_state_dict(self.model, self.optimizer, model_state_dict=state["model"], optim_state_dict=state["optimizer"])
        self.scheduler.load_state_dict(state["scheduler"])
        return newest[0]

    def _state(self) -> dict[str, Any]:
        model, optimizer = get_state_dict(self.model, self.optimizer)
        scheduler = self.scheduler.state_dict()
        return {"model": model, "optimizer": optimizer, "scheduler": scheduler}

    def _path(self, step: int) -> Path:
        return self.folder / f"step-{step:08d}"

    def _clean(self) -> None:
        """Remove old checkpoints and what a kill left half-written."""
        for step in self.steps()[:-KEPT]:
            os.rename(self._path(step), self.folder / f"part-old-{step:08d}")  # half a removal must not look whole
        for part in self.folder.glob("part-*"):
            shutil.rmtree(part, ignore_errors=True)
