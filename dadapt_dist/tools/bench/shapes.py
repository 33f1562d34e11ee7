"""Tensors over which a step is measured, and the words of memory that it must move."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import nn

# A small transformer's tensors, a shard of FSDP1 or ZeRO, and many tensors in which only the host's work counts.
SHAPES: dict[str, list[tuple[int, ...]]] = {
    "tensors": [
        *[(256, 256), (256, 256), (256, 256), (256, 256), (256,), (256,), (256,), (256,)] * 24,
        *[(1024, 256), (256, 1024), (1024,), (256,)] * 24,
        (16384, 256),
        (1792, 1024),
    ],
    "flat": [(20_000_000,)],
    "tiny": [(100,)] * 1000,
}


def parameters(shapes: list[tuple[int, ...]], dtype: "torch.dtype", device: str) -> "list[nn.Parameter]":
    """Parameters with gradients, the same at every call."""
    import torch
    from torch import nn

    generator = torch.Generator(device).manual_seed(0)
    params = []
    for shape in shapes:
        x, g = (torch.randn(shape, generator=generator, device=device, dtype=dtype) for _ in range(2))
        p = nn.Parameter(x.mul_(0.02))
        p.grad = g.mul_(0.01)
        params.append(p)
    return params


@dataclass(frozen=True)
class Pass:
    """What one way through memory touches, an element: the gradient, buffers that it reads alone or writes too, and x or not.

    What is written is read before: memory is moved in lines, which are longer than an element.
    """

    read: int
    written: int
    x: str

    @property
    def words(self) -> int:
        """How often an element is read or written."""
        return 1 + self.read + 2 * self.written + {"": 0, "read": 1, "written": 2}[self.x]


def passes(method: str) -> list[Pass]:
    """The ways of a step of this method through memory, with its defaults: the sums before the step, and the step.

    What they touch follows from the method's own code. A method whose code cannot be recorded touches every buffer.
    """
    import torch

    from ...engine.local_step import coefficients
    from ...kernels.traced_method import in_order, touched
    from ...methods import METHODS, Method
    from .peers import OURS

    optimizer = OURS[method]([torch.nn.Parameter(torch.ones(1, device="cpu"))])
    (group,), kind = optimizer.param_groups, METHODS[method]()
    names = in_order(kind, kind.buffers(group))
    phases = touched(kind, names, coefficients(optimizer, group, torch.device("cpu")))
    has_before = kind.before is not None and METHODS[method].wants_before is Method.wants_before  # in every step
    return [_pass(names, *phase) for phase in (phases if has_before else phases[-1:])]


def _pass(names: Iterable[str], read: frozenset[str], written: frozenset[str]) -> Pass:
    writes = sum(name in written for name in names)
    reads = sum("." + name in read and name not in written for name in names)
    return Pass(reads, writes, "written" if "x" in written else "read" if "x" in read else "")


def words(method: str) -> int:
    """Words an element that a step reads and writes."""
    return sum(way.words for way in passes(method))
