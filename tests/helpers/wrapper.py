"""A wrapper of an optimizer."""

from typing import Any


class Wrapper:
    """Passes on what it has not got itself, as wrappers of optimizers do."""

    def __init__(self, optimizer: Any) -> None:
        self.optimizer = optimizer

    def __getattr__(self, name: str) -> Any:
        return getattr(self.optimizer, name)
