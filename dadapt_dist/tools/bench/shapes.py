"""Tensors over which a step is measured, and the words of memory that it must move."""

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


def words(method: str) -> tuple[int, int, int]:
    """(words an element that a step reads and writes, buffers, buffers that it writes): x, g and every buffer once."""
    from ...methods import METHODS

    kind = METHODS[method]()
    names = kind.buffers(kind.options.defaults())
    written = sum(name not in kind.read_only for name in names)
    return 2 + len(names) + 1 + written, len(names), written
