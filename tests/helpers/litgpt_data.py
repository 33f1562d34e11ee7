"""Data for litgpt, which names it by class path on its command line."""

from typing import Any

import torch
from litgpt.data import DataModule
from torch.utils.data import DataLoader

VOCABULARY, LENGTH, BATCH = 32, 8, 8


class Walks(DataModule):
    """Sequences whose next token is one of three."""

    def connect(self, tokenizer: Any = None, batch_size: int = 1, max_seq_length: int = 0) -> None:
        self.size = batch_size

    def loader(self) -> Any:
        steps = torch.randint(0, 3, (8 * BATCH, LENGTH + 1), generator=torch.Generator().manual_seed(0))
        return DataLoader(list(steps.cumsum(1) % VOCABULARY), batch_size=self.size)  # type: ignore[arg-type]

    train_dataloader = val_dataloader = loader
