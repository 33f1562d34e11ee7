"""Keep a rank that has run out of input in step with the others, for torch's `Join`.

It takes part in every reduce of ours without adding anything. How many there will be it cannot know: the others may accumulate
gradients, or skip steps. So a thread starts one after another until the ranks that came last say that it ends. They then hand
their state to all.
"""

import contextlib
import logging
import threading
import weakref
from collections.abc import Iterable
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.distributed.algorithms.join import Join, Joinable, JoinHook
from torch.nn.parallel import DistributedDataParallel

from ..sharding.replicated import joins_of
from . import placing
from .state.buffers import is_unmoved, note_moved

logger = logging.getLogger(__name__)


class MayLackInput(placing.Placeable, Protocol):
    """A StepSize whose rank may run out of input before the others."""

    steps: int
    _released: bool
    _done: set[str]

    @property
    def _joining(self) -> "Joining":
        """Its part in a `Join`."""

    def _finish(self) -> None:
        """Wait for the reduce under way, and move the scalars by it."""


class Hook(JoinHook):
    """What torch's `Join` calls for one StepSize."""

    def __init__(self, joining: "Joining") -> None:
        self.joining = joining

    def main_hook(self) -> None:
        """Another rank still has input."""
        self.joining.follow()

    def post_hook(self, is_last_joiner: bool) -> None:
        """All ranks are through."""
        self.joining.end(is_last_joiner)


class Joining:
    """The part of one StepSize in a `Join`."""

    def __init__(self, step_size: MayLackInput) -> None:
        self._step_size = weakref.ref(step_size)
        self._thread: threading.Thread | None = None
        self._error: Exception | None = None
        self._ended = False
        self.modules: list[tuple[weakref.ref[DistributedDataParallel], Any]] = []
        self._told = False

    @property
    def step_size(self) -> MayLackInput:
        step_size = self._step_size()
        assert step_size is not None, "the optimizers of a Join live as long as it does"
        return step_size

    def hook(self) -> Hook:
        """What a `Join` that begins now is to call. Raises ValueError where no rank may leave before the others."""
        self.check()
        self._ended = False
        return Hook(self)

    def hook_of(self, optimizer: Any) -> Hook:
        """`hook`, for a `Join` that is being made with this optimizer among others, in whatever order.

        The first announces each iteration, before its own collectives: that is the model, whose forward pass comes first.
        """
        for join in joins_of(optimizer):
            if "_join_hooks" not in join.__dict__:
                join._joinables = sorted(join._joinables, key=lambda other: hasattr(other, "step_size"))
        return self.hook()

    def check(self) -> None:
        """Raise ValueError where no rank may leave before the others."""
        step_size = self.step_size
        if step_size._shards.is_cut(step_size._roster.params()):
            raise ValueError(
                "Join lets ranks leave that have no more input, and some parameters of this optimizer are cut over the ranks "
                "(FSDP, tensor or pipeline parallelism, ZeRO): nobody else has their elements. Give all ranks equally many "
                "batches."
            )

    # ---------------------------------------------------------------- DDP alone in a Join

    def watch(self, modules: Iterable[DistributedDataParallel]) -> None:
        """See when one of these DDP modules is in a `Join` that this StepSize is not in."""
        self.modules = [(weakref.ref(module), None) for module in modules]

    def look_for_join(self) -> None:
        """Take part in a `Join` that was given the model alone. All ranks that step see it in the same step."""
        for index, (ref, seen) in enumerate(self.modules):
            module = ref()
            config = None if module is None else module._join_config
            if module is not None and config is not None and config is not seen and config.enable:
                self.modules[index] = ref, config
                self._enroll(module)

    def _enroll(self, module: DistributedDataParallel) -> None:
        for join in joins_of(module):
            hooks = join.__dict__.get("_join_hooks", [])
            if not any(isinstance(hook, Hook) and hook.joining is self for hook in hooks):
                hooks.append(self.hook())
                if not self._told:
                    self._told = True
                    logger.info(
                        "Join was given the DDP module alone: the optimizer takes part in it, as in Join([ddp, optimizer])"
                    )

    # ---------------------------------------------------------------- a rank without input

    def follow(self) -> None:
        """Begin to answer the reduces of the others. Raises what went wrong in it."""
        if self._error is not None:
            raise self._error
        if self._thread is None:
            self._thread = threading.Thread(target=self._answer, name="dadapt-dist Join", daemon=True)
            self._thread.start()

    def _answer(self) -> None:
        step_size = self.step_size
        try:
            with _own_stream(placing.home_of(step_size)):
                step_size._finish()
                _place_if_needed(step_size)
                self.check()
                while not step_size._reduce.shadow(end=False):
                    pass
        except Exception as error:  # noqa: BLE001 - raised where Join calls next
            self._error = error

    def end(self, is_last: bool) -> None:
        """Take the state of a rank that was among the last, on all ranks."""
        if self._ended:
            return  # another optimizer with the same StepSize has done it
        self._ended = True
        step_size, thread = self.step_size, self._thread
        if thread is not None:
            thread.join()
            self._thread = None
            if self._error is not None:
                error, self._error = self._error, None
                raise error
        else:
            step_size._finish()
            _place_if_needed(step_size)
            step_size._reduce.shadow(end=True)
        hand_over(step_size, is_last)


def _place_if_needed(step_size: MayLackInput) -> None:
    if not step_size._roster.is_placed():
        placing.place(step_size)


class MayJoin(Joinable):
    """The part of an optimizer in `Join([ddp, optimizer])`."""

    step_size: MayLackInput

    def join_hook(self, **kwargs: Any) -> JoinHook:
        """What a rank does that has run out of input. Raises ValueError where the parameters are cut over the ranks."""
        return self.step_size._joining.hook_of(self)

    @property
    def join_device(self) -> torch.device:
        return placing.home_of(self.step_size)

    @property
    def join_process_group(self) -> Any:
        return self.step_size._layout.parent

    def _announce(self) -> None:
        """Tell ranks without input that this one takes a step: to be called where nobody in the Join does so before."""
        Join.notify_join_context(self)


def hand_over(step_size: MayLackInput, is_last: bool) -> None:
    """Give the scalars, counters and buffers of the highest rank among the last to all. In place; a collective call."""
    layout = step_size._layout
    members: list[Any] = list(step_size._roster)
    if layout.world_size == 1:
        return
    own = (step_size.steps, step_size._released), [_buffers(member) for member in members]
    said = layout.all_gather_object((is_last, own))
    source = max(rank for rank, (last, _) in enumerate(said) if last)
    counters, buffers = said[source][1]
    tensors = [*step_size._scalars.values.values()]
    if step_size._rms is not None:  # the parameters are handed over too, perhaps later, by the model
        tensors += [step_size._rms.local, step_size._rms.total]
    for member, of_member in zip(members, buffers, strict=True):
        for (_, p), (_, names) in zip(member._all_params(), of_member, strict=True):
            tensors += [member.state[p][name] for name in names]
    layout.share(tensors, source, layout.reduce_device(step_size._scalars.device))
    step_size._scalars.seal()
    if layout.rank != source:
        for member, of_member in zip(members, buffers, strict=True):
            _drop_others(member, of_member)
            note_moved(member, [p for (_, p), (moved, _) in zip(member._all_params(), of_member, strict=True) if moved])
    step_size.steps, step_size._released = counters
    step_size._done.clear()
    step_size._losses.forget()
    step_size._reduce.again()


def _buffers(member: Any) -> list[tuple[bool, list[str]]]:
    """Of each parameter, whether it may have moved from its x0, and the names of its buffers."""
    return [
        (
            not is_unmoved(member, p),
            sorted(name for name, t in member.state.get(p, {}).items() if isinstance(t, Tensor)),
        )
        for _, p in member._all_params()
    ]


def _drop_others(member: Any, of_member: list[tuple[bool, list[str]]]) -> None:
    """Let go of buffers that the source has released."""
    for (_, p), (_, names) in zip(member._all_params(), of_member, strict=True):
        for name in set(member.state.get(p, ())) - set(names):
            if isinstance(member.state[p][name], Tensor):
                del member.state[p][name]


def _own_stream(device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """Work of the thread that no other work on a GPU waits for."""
    if device.type != "cuda":
        return contextlib.nullcontext()
    stack = contextlib.ExitStack()
    stack.enter_context(torch.cuda.device(device))
    stack.enter_context(torch.cuda.stream(torch.cuda.Stream(device)))
    return stack
