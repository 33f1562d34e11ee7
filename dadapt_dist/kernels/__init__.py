"""How does a step run over real tensors? By the fastest kernel that can take them: compiled, Triton, or plain operations."""

from collections.abc import Callable, Iterable
from typing import Any, Literal, Protocol, get_args

import torch
from torch import Tensor

from ..methods.base import Coefficients, Method
from . import cpu_c, eager, triton_launch
from .memory_checks import Crowd, Seen, UnfitError, check, check_apart, is_plain
from .tensor_task import TensorTask
from .write_protection import check_versions, check_writable

ByDevice = Callable[[torch.device], Coefficients]
Share = tuple[list[TensorTask], ByDevice, Any]  # the tasks of a group, their coefficients, and what keeps their `crowd`
Backend = Literal["auto", "c", "triton", "eager"]


class Kernel(Protocol):
    """One way to run a step. `run` takes tasks of one device, of groups with equal options, that `supports` has accepted."""

    def available(self) -> bool:
        """Can it run anything here?"""

    def supports(self, method: Method, task: TensorTask) -> bool:
        """Can it take this tensor?"""

    def run(
        self, method: Method, tasks: list[TensorTask], c: Coefficients, dry: bool, skip: Tensor | None = None
    ) -> Tensor:
        """Advance; float64 [n_sums + 1]: Σ weight·sum of each of `method.sums`, then of the non-finite gradient elements.

        skip: 0-dim bool; where it is true nothing is written, and the sums are 0.
        """


KERNELS: dict[str, Any] = {"c": cpu_c, "triton": triton_launch}
CHAINS: dict[str, tuple[Any, ...]] = {
    "auto": (cpu_c, triton_launch),
    "c": (cpu_c,),
    "triton": (triton_launch,),
    "eager": (),
}
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


def rank_fingerprint(device: torch.device) -> tuple[str, bool]:
    """What must be equal on all ranks: replicas that round differently would drift apart."""
    return device.type, cpu_c.available() if device.type == "cpu" else triton_launch.available()


def prepare(method: Method, groups: Iterable[Share], backend: str) -> None:
    """Look at every tensor of a step, and choose its kernel; UnfitError before anything moves.

    A tensor that is where and what it was in the step before is known by one comparison.
    """
    chain, new = CHAINS[backend], False
    groups = list(groups)
    for tasks, coefficients, keeper in groups:
        crowd = keeper.crowd
        if crowd is not None and crowd.still(tasks) and (crowd.kernel is not cpu_c or cpu_c.point(tasks)):
            continue
        for task in tasks:
            kernel = task.kernel
            if kernel is None or task.memo is None or not kernel.supports(method, task):
                new |= task.memo is not None or kernel is None
                _look(method, task, coefficients, chain)
        keeper.crowd = Crowd.of(tasks)
    if new:
        check_apart(task for tasks, _, _ in groups for task in tasks)
        check_writable(task for tasks, _, _ in groups for task in tasks)


def _look(method: Method, task: TensorTask, coefficients: ByDevice, chain: tuple[Any, ...]) -> None:
    task.memo = None
    if task.g.is_neg():  # stored with its sign reversed, of which no address tells
        task.g = task.g.resolve_neg()
    check(task)
    task.kernel = next((kernel for kernel in chain if kernel.supports(method, task)), eager)
    if task.kernel is not eager:
        return
    if not all(map(is_plain, (task.x, task.g, *task.buf.values()))):
        eager.rehearse(method, task, coefficients(task.x.device))
    else:
        check_versions(task)
        task.memo = None if task.g.is_sparse else Seen(task)


def run(
    method: Method, tasks: Iterable[TensorTask], coefficients: ByDevice, dry: bool, skip: Tensor | None = None
) -> list[Tensor]:
    """Run one step over the tensors of groups with equal options, which `prepare` has seen.

    coefficients: `Method.coefficients` with scalars on a device, and "seed", the number of the step. dry: compute the sums and
    leave all tensors as they are. skip: 0-dim bool, on any device; true: leave them as they are, with sums of 0.
    Returns float64 [n_sums + 1] for each device and kernel, to be added up: Σ weight·sum of each of `method.sums`, and last of
    the gradient elements that are not finite, or with which the step would overflow, which take part as if they were zero.
    """
    tasks = list(tasks)
    if tasks and all(task.kernel is cpu_c for task in tasks):
        return [cpu_c.run(method, tasks, coefficients(tasks[0].x.device), dry, skip)]
    shares: dict[Any, list[TensorTask]] = {}
    for task in tasks:
        kernel = task.kernel
        shares.setdefault(kernel if kernel is cpu_c else (kernel, task.x.device), []).append(task)
    results = []
    for key, share in shares.items():
        kernel = cpu_c if key is cpu_c else key[0]
        results.append(kernel.run(method, share, coefficients(share[0].x.device), dry, skip))
    return results


__all__ = ["Backend", "Crowd", "TensorTask", "UnfitError", "check_backend", "prepare", "rank_fingerprint", "run"]
