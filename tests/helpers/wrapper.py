"""A wrapper of an optimizer."""

from typing import Any


class Wrapper:
    """Passes on what it has not got itself, as wrappers of optimizers do."""

    def __init__(self, optimizer: Any) -> None:
        self.optimizer = optimizer

    def __getattr__(self, name: str) -> Any:
        return getattr(self.optimizer, name)


class Blind:
    """Has the groups and step() of an optimizer and nothing else: a scaler cannot ask the optimizer through it."""

    def __init__(self, optimizer: Any) -> None:
        self.optimizer = optimizer
        self.param_groups = optimizer.param_groups

    def step(self, *args: Any) -> Any:
        return self.optimizer.step(*args)
