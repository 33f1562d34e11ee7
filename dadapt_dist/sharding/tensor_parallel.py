"""Let one reduce tell whether the ranks of each tensor-parallel group have the same number.

Rank t of T in the group R adds r_R·w_t·f to the sum of all ranks, where Σ_t w_t = 0, Σ_t w_t² = 1 and 1/2 < r_R <= 1. The total
is 0, up to rounding, where the ranks of each group have the same f. The factors are such that other totals of 0 are chance.
"""

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from ..comm.communicator import ShardLayout
from . import registry

GOLDEN = (math.sqrt(5) - 1) / 2


@dataclass(frozen=True)
class Contrast:
    """What this rank multiplies its number by, and its share in its group. Both are 0 for a rank that is in none.

    groups: how many there are among all ranks.
    """

    weight: float = 0.0
    share: float = 0.0
    groups: int = 0


def contrast(params: Sequence[Tensor], layout: ShardLayout, device: torch.device) -> Contrast:
    """The part of this rank. A collective call of all ranks. device: where the group can communicate.

    Groups count that lie in the layout as a whole, and whose ranks agree on it.
    """
    ranks = registry.tensor_parallel_ranks(params) if layout.world_size > 1 and dist.is_initialized() else ()
    if layout.world_size == 1:
        return Contrast()
    there = len(ranks) > 1 and dist.get_rank() in ranks
    row = [ranks[0], len(ranks), ranks.index(dist.get_rank())] if there else [-1, 0, 0]
    places: defaultdict[tuple[int, int], list[int]] = defaultdict(list)
    for first, size, place in layout.all_gather(torch.tensor(row, dtype=torch.int64, device=device)).tolist():
        places[first, size].append(place)
    whole = [key for key, found in sorted(places.items()) if key[1] and sorted(found) == [*range(key[1])]]
    first, size, place = row
    if (first, size) not in whole:
        return Contrast(groups=len(whole))
    return Contrast(_factor(whole.index((first, size))) * _weights(size)[place], 1 / size, len(whole))


def _factor(group: int) -> float:
    """Another number for each group, so that differences in several do not cancel: 1 for the first, and above 1/2."""
    return 1 - math.modf(group * GOLDEN)[0] / 2


def _weights(size: int) -> list[float]:
    """Numbers that add up to 0, no fewer of which do, and whose squares add up to 1."""
    roots = [math.sqrt(place + 2) for place in range(size)]
    around = [root - math.fsum(roots) / size for root in roots]
    norm = math.sqrt(math.fsum(x * x for x in around))
    return [x / norm for x in around]
