"""How does a step run over real tensors? By the fastest kernel that can take them: compiled, Triton, or plain operations."""

from collections.abc import Callable, Iterable
from typing import Any, Literal, Protocol, get_args

import torch
from torch import Tensor

from ..methods.base import Coefficients, Method
from . import eager, gpu, native
from .work import Work

Backend = Literal["auto", "c", "triton", "eager"]


class Kernel(Protocol):
    """One way to run a step. `run` takes works of one device, of groups with equal options, that `takes` has accepted."""

    def available(self) -> bool:
        """Can it run anything here?"""

    def takes(self, method: Method, work: Work) -> bool:
        """Can it take this tensor?"""

    def run(self, method: Method, works: list[Work], c: Coefficients, dry: bool, skip: Tensor | None = None) -> Tensor:
        """Advance; float64 [n_sums + 1]: Σ weight·sum of each of `method.sums`, then of the non-finite gradient elements.

        skip: 0-dim bool; where it is true nothing is written, and the sums are 0.
        """


KERNELS: dict[str, Any] = {"c": native, "triton": gpu}
CHAINS: dict[str, tuple[Any, ...]] = {"auto": (native, gpu), "c": (native,), "triton": (gpu,), "eager": ()}
CURES = {
    "c": "Install a C compiler (cc, gcc or clang; CC names another), or use backend='auto', which takes the plain loop here",
    "triton": "Install triton and run on a GPU, or use backend='auto'",
}


def check_backend(backend: str) -> None:
    """Raise ValueError for a backend that does not exist, or that cannot run anything here."""
    if backend not in get_args(Backend):
        raise ValueError(f"backend={backend!r} is not one of {', '.join(map(repr, get_args(Backend)))}")
    if backend in KERNELS and not KERNELS[backend].available():
        raise ValueError(f"backend={backend!r} cannot be had here. {CURES[backend]}.")


def present(device: torch.device) -> tuple[str, bool]:
    """What must be equal on all ranks: replicas that round differently would drift apart."""
    return device.type, native.available() if device.type == "cpu" else gpu.available()


def run(
    method: Method,
    works: Iterable[Work],
    coefficients: Callable[[torch.device], Coefficients],
    backend: str,
    dry: bool,
    skip: Tensor | None = None,
) -> list[Tensor]:
    """Run one step over the tensors of groups with equal options.

    coefficients: `Method.coefficients` with scalars on a device, and "seed", the number of the step. dry: compute the sums and
    leave all tensors as they are. skip: 0-dim bool, on any device; true: leave them as they are, with sums of 0.
    Returns float64 [n_sums + 1] for each device and kernel, to be added up: Σ weight·sum of each of `method.sums`, and last
    of the gradient elements that are not finite, which take part as if they were zero.
    """
    chain = CHAINS[backend]
    shares: dict[Any, list[Work]] = {}
    for work in works:
        for kernel in chain:
            if kernel.takes(method, work):
                break
        else:
            kernel = eager
        shares.setdefault(kernel if kernel is native else (kernel, work.x.device), []).append(work)
    results = []
    for key, share in shares.items():
        kernel = native if key is native else key[0]
        results.append(kernel.run(method, share, coefficients(share[0].x.device), dry, skip))
    return results


__all__ = ["Backend", "Work", "check_backend", "present", "run"]
