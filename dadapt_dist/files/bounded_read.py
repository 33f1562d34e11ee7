"""Read a file that a user names without ever blocking or filling the memory."""

import errno
import json
import os
import stat
from pathlib import Path
from typing import Any, BinaryIO

CONFIG_BYTES = 1 << 18
"""A config has a few thousand."""


def open_regular(path: str | os.PathLike[str]) -> BinaryIO:
    """Open a regular file for reading, and never wait for one that is none.

    A pipe, a socket, a device or a folder raises ValueError, and so does a name that cannot be one; a file that is not there or
    may not be read raises OSError, as open() does.
    """
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0) | getattr(os, "O_BINARY", 0)
    try:
        descriptor = os.open(path, flags)
    except OSError as error:
        if error.errno in (errno.ENXIO, errno.EOPNOTSUPP):  # a socket
            raise ValueError(f"{path} is no regular file") from error
        raise
    except ValueError as error:  # a zero byte in the name
        raise ValueError(f"{os.fspath(path)!r} cannot be the name of a file: {error}") from error
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode):
        os.close(descriptor)
        raise ValueError(f"{path} is {'a folder' if stat.S_ISDIR(mode) else 'no regular file'}")
    return open(descriptor, "rb")


def read_bytes(path: str | os.PathLike[str], most: int) -> bytes:
    """Return the content of a regular file of at most `most` bytes.

    A larger file raises ValueError; otherwise as `open_regular`.
    """
    with open_regular(path) as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise ValueError(f"{path} is larger than the {most >> 10} KiB that are read of such a file")
    return content


def read_text(path: str | os.PathLike[str], most: int = CONFIG_BYTES) -> str:
    """Read a UTF-8 text file, with or without a byte order mark. Raises ValueError if it is not UTF-8."""
    content = read_bytes(path, most)
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path} is no text in UTF-8: byte {error.start} is 0x{content[error.start]:02x}; save it as UTF-8"
        ) from error


def read_json_object(path: Path, most: int = CONFIG_BYTES) -> dict[str, Any]:
    """Read a JSON file whose top level is an object. Raises ValueError for anything else."""
    try:
        content = json.loads(read_text(path, most))
    except (json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"{path} is no well-formed JSON: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds {in_words(content)}, not settings by name")
    return content


def in_words(content: object) -> str:
    """What kind of value a file holds, for people who do not write Python."""
    if content is None:
        return "nothing"
    kinds = {bool: "true or false", int: "a number", float: "a number", str: "a text", list: "a list", dict: "settings"}
    return next((said for kind, said in kinds.items() if isinstance(content, kind)), f"a {type(content).__name__}")
