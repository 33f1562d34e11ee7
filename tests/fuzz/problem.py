"""The training problem: whole tensors, and whole gradients that depend only on the seed, the name and the step.

Gradients do not depend on the parameters: rounding in one layout is never blown up, and every rank knows them all.
Everything lies in one flat vector, whose entry 0 is padding.
"""

from math import prod

import torch
from torch import Tensor

from .config import Config


class Problem:
    """starts: the flat vector of initial values; gradients: of each step. Float64, rounded to the dtype of the run."""

    def __init__(self, config: Config) -> None:
        self.config = config
        dtype = getattr(torch, config.dtype)
        self.offsets: dict[str, slice] = {}
        end = 1
        for name, shape in config.shapes.items():
            self.offsets[name] = slice(end, end + prod(shape))
            end += prod(shape)
        generator = torch.Generator().manual_seed(config.seed)
        noise = torch.randn(config.steps + 2, end, generator=generator, dtype=torch.float64)
        noise[:, 0] = 0
        self.starts = noise[0].to(dtype).double()
        self.gradients = (config.scale * (noise[1] + 0.5 * noise[2:])).to(dtype).double()
        for step, name in config.zero:
            self.gradients[step, self.offsets[name]] = 0
        self.clean = self.gradients.to(dtype).double()
        for (step, name), (share, value) in config.bad.items():
            part = self.gradients[step, self.offsets[name]]
            part[torch.rand(len(part), generator=generator) < share] = value
            part[-1:] = value
        self.gradients = self.gradients.to(dtype).double()

    def whole(self, flat: Tensor, name: str) -> Tensor:
        """A parameter's part of a flat vector, in its shape."""
        return flat[self.offsets[name]].view(self.config.shapes[name])

    def clipped(self, step: int) -> Tensor:
        """The gradients of a step as torch's clip_grad_norm_ leaves them."""
        g = self.gradients[step]
        if self.config.clip is None:
            return g
        there = [g[at] for name, at in self.offsets.items() if self.config.has_gradient(step, name)]
        norm = torch.cat(there).norm() if there else torch.zeros(())
        return g * min(1.0, self.config.clip / (float(norm) + 1e-6))
