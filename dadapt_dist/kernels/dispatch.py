"""Choose the kernel of every tensor of a step: compiled C, Triton, or plain operations.

A kernel is a module with the functions of `Kernel`. The step plan calls `assign` for a task that is new or has changed,
`check_together` for all tasks when one is, and keeps the result of `launches`, whose kernels the step then runs.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal, NamedTuple, Protocol

import torch
from torch import Tensor

from ..methods.base import Coefficients, Method
from . import cpu_c, eager, triton_launch
from .memory_checks import check, check_apart, check_versions, check_writable, is_fixed
from .tensor_task import PerTensor, TensorTask

Backend = Literal["auto", "c", "triton", "eager"]


class Kernel(Protocol):
    """One way to run a step over tensors of one device, of groups with equal options."""

    def supports(self, method: Method, task: TensorTask) -> bool:
        """Whether the kernel can run this task."""

    def derive(self, method: Method, tasks: Sequence[TensorTask]) -> Any:
        """What `run` needs of the tasks' tensors beside the gradients, for as long as these are what they are now."""

    def run(
        self,
        method: Method,
        tasks: Sequence[TensorTask],
        c: Coefficients,
        dry: bool,
        skip: Tensor | None,
        derived: Any,
        apart: PerTensor | None,
    ) -> Tensor | None:
        """Run one step over tasks that `supports` has accepted.

        Args:
            method: The method.
            tasks: Tasks with their present gradients.
            c: `Method.coefficients` with scalars on the device of the tasks, and "seed", the number of the step.
            dry: Compute the sums and leave all tensors as they are.
            skip: 0-dim bool on any device; true: leave all tensors as they are, with sums of 0.
            derived: What `derive` returned for these tasks; None: to be derived now.
            apart: What to do with each tensor of the model apart, for tasks with `runs`; None: nothing.

        Returns:
            float64 [n_sums + 1]: Σ weight·sum of each of `method.sums`, and last of the gradient elements that are not
            finite, or with which the step would overflow, which take part as if they were zero. None, with nothing moved,
            where no kernel can be made for these coefficients: the plain loop has to run.
        """

    def measure(self, method: Method, tasks: Sequence[TensorTask], c: Coefficients, derived: Any) -> Tensor | None:
        """The sums of `Method.measure_before` over tasks that `supports` has accepted, whose tensors are only read.

        Returns:
            float64 [n_sums + 1]: Σ weight·sum of each of `method.before`, and last of the gradient elements that are not
            finite, or whose square is not, which take part as if they were zero. None as of `run`.
        """


class Launch(NamedTuple):
    """The tasks that one call of a kernel runs, and what the kernel has derived from them."""

    kernel: Any
    device: torch.device
    tasks: list[TensorTask]
    derived: Any


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


def check_available(backend: str) -> None:
    """Raise ValueError for a backend of KERNELS that cannot run anything here."""
    if not KERNELS[backend].available():
        raise ValueError(f"backend={backend!r} cannot be had here. {CURES[backend]}.")


def rank_fingerprint(device: torch.device) -> tuple[str, bool]:
    """What must be equal on all ranks: replicas that round differently would drift apart."""
    return device.type, cpu_c.available() if device.type == "cpu" else triton_launch.available()


def assign(method: Method, task: TensorTask, coefficients: Callable[[torch.device], Coefficients], backend: str) -> Any:
    """Check the tensors of a task and choose its kernel. Raises UnfitError before anything moves."""
    if task.g.is_neg():  # stored with its sign reversed, of which no address tells
        task.g = task.g.resolve_neg()
    check(task)
    kernel = next((kernel for kernel in CHAINS[backend] if kernel.supports(method, task)), eager)
    if kernel is eager and not task.g.is_sparse and not is_fixed(task):
        eager.rehearse(method, task, coefficients(task.x.device))
    elif kernel is eager:
        check_versions(task)
    return kernel


def check_together(tasks: Sequence[TensorTask]) -> None:
    """Check that the tasks of a step share no memory and may write theirs. Raises UnfitError before anything moves."""
    check_apart(tasks)
    check_writable(tasks)


def launches(method: Method, assigned: Iterable[tuple[TensorTask, Any]]) -> list[Launch]:
    """The calls of kernels that run tasks with equal options: one for each kernel and device."""
    shares: dict[Any, list[TensorTask]] = {}
    for task, kernel in assigned:
        shares.setdefault((kernel, None if kernel is cpu_c else task.x.device), []).append(task)
    return [
        Launch(kernel, tasks[0].x.device, tasks, kernel.derive(method, tasks)) for (kernel, _), tasks in shares.items()
    ]
