"""The largest lr of each estimate's groups, for methods whose scalars follow it."""

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType

import torch
from torch import Tensor

from ..methods.base import Options

LR = "lr"


class LargestLrs:
    """lr of each estimate as it is in this step: 0 where no group of this rank has the estimate, or none was looked at."""

    _found: Mapping[str, float] = MappingProxyType({})

    def take(self, pairs: Iterable[tuple[Options, Sequence[str]]]) -> None:
        """Look at all groups, each with the names of its estimates."""
        found: dict[str, float] = {}
        for group, estimates in pairs:
            lr = float(group[LR])
            for name in estimates:
                found[name] = max(lr, found.get(name, 0.0))
        self._found = found

    def of(self, name: str) -> dict[str, float]:
        """The constant "lr" of one estimate."""
        return {LR: self._found.get(name, 0.0)}

    def tensor(self, names: Sequence[str], device: torch.device) -> dict[str, Tensor]:
        """The constant "lr" of these estimates, [n_estimates]: no copy, which would wait, for it may change in every step."""
        lrs = (self._found.get(name, 0.0) for name in names)
        return {LR: torch.stack([torch.full((), lr, dtype=torch.float64, device=device) for lr in lrs])}
