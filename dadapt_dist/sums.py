"""How do the partial sums of many tensors become one vector, each element counted once?"""

from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass
class Share:
    """The partial sums of one group's tensors, and the weight 1/copies of each tensor. row: the group's estimate."""

    row: int
    weights: list[float] = field(default_factory=list)
    sums: list[Tensor] = field(default_factory=list)

    def add(self, weight: float, sums: list[Tensor]) -> None:
        """Add one tensor's partial sums, 0-dim float64 each."""
        self.weights.append(weight)
        self.sums += sums


def gather(shares: list[Share], rows: int, width: int, device: torch.device) -> Tensor:
    """Σ weight·sums of every estimate, in a fixed order: float64 [rows, width]."""
    total = torch.zeros(rows, width, dtype=torch.float64, device=device)
    for share in shares:
        if share.sums:
            sums = torch.stack([t.to(device, non_blocking=True) for t in share.sums]).view(-1, width)
            weights = torch.tensor(share.weights, dtype=torch.float64).to(device, non_blocking=True)
            total[share.row] += weights @ sums
    return total
