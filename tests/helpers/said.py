"""Collects what the library says through `logging`."""

import logging
from collections.abc import Callable
from typing import Any


def said_while(run: Callable[..., Any], *arguments: Any) -> list[str]:
    """The beginning of each message, up to its first colon, of what dadapt_dist.integrations logs while `run` runs."""
    said: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage().split(":")[0])  # type: ignore[method-assign]
    library = logging.getLogger("dadapt_dist.integrations")
    library.addHandler(handler)
    try:
        run(*arguments)
    finally:
        library.removeHandler(handler)
    return said


class Messages(logging.Handler):
    """Keeps warnings of the library, as text."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(record.getMessage())
