"""How do the partial sums of many tensors become one vector, each element counted once?"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class Share:
    """The sums of one group's tensors, weighted by 1/copies: float64 [width] each. row: the group's estimate."""

    row: int
    sums: list[Tensor]


def gather(shares: list[Share], rows: int, width: int, device: torch.device) -> Tensor:
    """The sums of every estimate, added in a fixed order: float64 [rows, width]."""
    total = torch.zeros(rows, width, dtype=torch.float64, device=device)
    for share in shares:
        for sums in share.sums:
            total[share.row] += sums.to(device, non_blocking=True)
    return total
