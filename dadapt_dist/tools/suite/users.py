"""What users give as module:function: it is imported, and what goes wrong in it is said with file and line."""

import importlib
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

_OURS = Path(__file__).parents[2].as_posix() + "/"


def look_here() -> None:
    """Let modules of the present folder be found, as they are where a script lies in it."""
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())


def imported(path: str, flag: str, takes: str) -> Callable[..., Any]:
    """The function that "module:function" names; ValueError where there is none.

    flag: what an error calls the option. takes: the arguments of such a function, in words.
    """
    module, _, name = path.partition(":")
    try:
        found = getattr(importlib.import_module(module), name)
    except Exception as error:
        raise ValueError(f"{flag} {path} cannot be imported ({said(error)}): give module:function") from error
    if not callable(found):
        raise ValueError(f"{flag} {path} is {shown(found)}; it must be a function of {takes}")
    made: Callable[..., Any] = found
    return made


def shown(value: Any) -> str:
    """A value in one short line."""
    return f"{' '.join(repr(value).split()):.60}"


def said(error: BaseException) -> str:
    """An error in one line, with the last line of a user's file that it went through."""
    kind = (
        "" if isinstance(error, (ImportError, AttributeError, TypeError, ValueError)) else f"{type(error).__name__}: "
    )
    text = " ".join(f"{kind}{error}".split()) or type(error).__name__
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if _is_users(frame.filename)]
    return f"{text} ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else text


def _is_users(file: str) -> bool:
    where = Path(file).as_posix()
    return Path(file).is_file() and not where.startswith((_OURS, Path(os.__file__).parent.as_posix())) and (
        "-packages/" not in where
    )  # fmt: skip
