"""A task of the user's own: a function that makes a model, batches and a loss."""

import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from .task import Problem, Task
from .users import imported, shown

JUDGED_ON = 100  # batches of training at most, where no others are given
TAKES = "(seed), that returns (model, batches, loss) or (model, batches, loss, judged_on)"


class UsersTask(Task):
    """A task made by "module:function", a function of the seed that returns a tuple.

    model: an nn.Module, new for each seed. batches: an iterable, one batch a step, begun again at its end. loss: a function of
    (model, batch) that returns the mean loss, a scalar tensor. judged_on: batches that are not trained on, whose mean loss
    decides, or a function of the model that returns a number, lower is better. Without it the loss of up to 100 batches of
    training decides.

    torch's generator is seeded before the function is called. Batches are drawn from a state of it of their own, so that they
    are the same for every optimizer.
    """

    kind = "user's"
    largest = float("inf")

    def __init__(self, path: str) -> None:
        self._function = imported(path, "task", TAKES)
        self.name = self.about = path  # type: ignore[misc]

    def begin(self, seed: int) -> Problem:
        torch.manual_seed(seed)
        model, batches, loss, judged_on = self._made(seed)
        self.judged = _judged(judged_on)  # type: ignore[misc]
        draw = _Draw(self.name, batches, seed)
        if callable(judged_on):
            evaluate = judged_on
        else:
            evaluate = _MeanLoss(self.name, batches if judged_on is None else judged_on, loss, judged_on is None)
        return Problem(model, draw, loss, lambda trained: float(evaluate(trained)))

    def check(self) -> None:
        with torch.random.fork_rng(devices=[]):
            problem = self.begin(0)
            found: Any = problem.loss(problem.model, problem.batch(1))
            if not isinstance(found, Tensor) or found.numel() != 1 or not found.requires_grad:
                raise ValueError(
                    f"the loss of {self.name} is {shown(found)}; it must be a scalar tensor with a gradient"
                )
            problem.model.eval()
            with torch.no_grad():
                problem.evaluate(problem.model)

    def _made(self, seed: int) -> tuple[nn.Module, Iterable[Any], Callable[..., Tensor], Any]:
        made = self._function(seed)
        if not isinstance(made, tuple) or len(made) not in (3, 4):
            raise ValueError(f"{self.name} returned {type(made).__name__}; it must be a function of {TAKES}")
        model, batches, loss, judged_on = made if len(made) == 4 else (*made, None)
        for what, value, right, kind in (
            ("model", model, isinstance(model, nn.Module), "an nn.Module"),
            ("batches", batches, hasattr(batches, "__iter__"), "a list or a DataLoader"),
            ("loss", loss, callable(loss), "a function of (model, batch)"),
            ("judged_on", judged_on, _can_judge(judged_on), "batches, or a function of the model"),
        ):
            if not right:
                raise ValueError(f"{self.name}: {what} is {shown(value)}; it must be {kind}")
        return model, batches, loss, judged_on


def _judged(judged_on: Any) -> str:
    if judged_on is None:
        return "training loss"
    return "its own function" if callable(judged_on) else "held-out loss"


def _can_judge(value: Any) -> bool:
    return value is None or callable(value) or hasattr(value, "__iter__")


class _Draw:
    """The batches of a run, one after the other, whatever else draws random numbers."""

    def __init__(self, name: str, batches: Iterable[Any], seed: int) -> None:
        self._name, self._batches = name, batches
        self._left: Iterator[Any] = iter(())
        self._state = torch.Generator().manual_seed(seed).get_state()

    def __call__(self, step: int) -> Any:
        with torch.random.fork_rng(devices=[]):
            torch.random.set_rng_state(self._state)
            batch = self._next(step)
            self._state = torch.random.get_rng_state()
        return batch

    def _next(self, step: int) -> Any:
        for _ in range(2):
            for batch in self._left:
                return batch
            self._left = iter(self._batches)
        raise ValueError(
            f"the batches of {self._name} ended before step {step} and cannot be begun again: return a list or a DataLoader"
        )


class _MeanLoss:
    """The mean loss of a model over batches."""

    def __init__(self, name: str, batches: Iterable[Any], loss: Callable[..., Tensor], of_training: bool) -> None:
        self._name, self._batches, self._loss = name, batches, loss
        self._most = JUDGED_ON if of_training else None

    def __call__(self, model: nn.Module) -> float:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            losses = [float(self._loss(model, batch)) for batch in itertools.islice(self._batches, self._most)]
        if not losses:
            raise ValueError(f"{self._name} has no batch to be judged on: return a list or a DataLoader")
        return sum(losses) / len(losses)
