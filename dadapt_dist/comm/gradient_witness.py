"""Verify by gradients that plain tensors held by several ranks are copies; equal initial values do not prove it.

Norm weights of ones and biases of zeros, cut by hand into plain tensors, start equal on all ranks, and so do layers that every
rank makes from one seed. Copies get equal gradients, up to roundings. DDP's are copies; of the others each rank sends, once, a
few numbers that depend on the directions of their gradients.
"""

from collections.abc import Iterable

import torch
from torch import Tensor

BUCKETS = 4
PREFIX = 4096  # elements of each tensor that are looked at
SMALL = 1e-3  # of the largest gradient: below it a gradient may be nothing but roundings


class Witness:
    """Looks at the gradients of the first step that has some."""

    def __init__(self) -> None:
        self._suspects: list[Tensor] = []
        self._found: dict[int, tuple[float, Tensor]] = {}  # place of a suspect -> size and direction of its gradient
        self.is_looking = False

    def begin(self, suspects: Iterable[Tensor]) -> None:
        """Say which parameters are taken for copies by their values alone."""
        self._suspects, self._found = list(suspects), {}
        self.is_looking = bool(self._suspects)

    def look(self) -> None:
        """Take note of the gradients that are there now, of those whose turn it is."""
        for place, p in enumerate(self._suspects):
            gradient = p.grad
            if type(gradient) is Tensor and not gradient.is_sparse and gradient.numel() and place not in self._found:
                g = gradient.detach().reshape(-1)[:PREFIX].double()
                size = g.norm()
                pattern = torch.cos(torch.arange(len(g), dtype=torch.float64, device=g.device) * 0.7 + place)
                self._found[place] = float(size) / len(g) ** 0.5, torch.dot(g, pattern) / size.clamp_min(1e-300)

    def marks(self) -> list[float]:
        """Triples (1, h, h²) of each bucket; zeros where there is nothing to say."""
        numbers = [0.0] * (3 * BUCKETS)
        if not self._found:
            return numbers
        largest = max(size for size, _ in self._found.values())
        for bucket in range(BUCKETS):
            places = range(bucket, len(self._suspects), BUCKETS)
            if places and all(place in self._found for place in places) and largest > 0:
                terms = [self._term(place, largest) for place in places]
                h = sum(terms)
                numbers[3 * bucket : 3 * bucket + 3] = 1.0, h, h * h
        self.begin(())
        return numbers

    def _term(self, place: int, largest: float) -> float:
        size, direction = self._found[place]
        return float(direction) * min(1.0, size / (SMALL * largest))
