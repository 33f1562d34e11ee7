"""Detect files and folders that someone other than the user or root could have written.

What is loaded as code (a compiled library, a pickle) must be the user's own. A group of which the user is the only member
counts as the user: many systems give every user such a group, and files that it may write.
"""

import os
import stat
from pathlib import Path
from typing import Any

try:
    import grp
    import pwd
except ImportError:  # not POSIX: files have no owner and no mode there
    grp = pwd = None  # type: ignore[assignment]

OTHERS, GROUP = 0o002, 0o020


def stranger(status: os.stat_result, owners: tuple[int, ...] | None = None) -> str | None:
    """Who else may have written what has this status, in words; None where only its rightful owners may.

    owners: user ids; unless given, the user and root. Nobody else is known where the system has no user ids.
    """
    if not hasattr(os, "geteuid"):
        return None
    if status.st_uid not in ((0, os.geteuid()) if owners is None else owners):
        return f"belongs to {_name(status.st_uid)}"
    if status.st_mode & OTHERS:
        return "is writable by all"
    if status.st_mode & GROUP and not _own_group(status.st_gid):
        return "is writable by its group"
    return None


def check_pickles(folder: Path, *, cure: str) -> None:
    """Raise ValueError where somebody else may have written, or may replace, a checkpoint's pickle below the folder.

    These are the .pt files, and .metadata of torch.distributed.checkpoint.
    """
    for root, _, names in os.walk(folder):
        _check(Path(root), cure)
        for name in names:
            if name.endswith((".pt", ".metadata")):
                _check(Path(root, name), cure)


def _check(path: Path, cure: str) -> None:
    try:
        status = path.stat()
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error}") from error
    who = stranger(status)
    if who is None or (stat.S_ISDIR(status.st_mode) and status.st_mode & stat.S_ISVTX and who.startswith("is")):
        return
    raise ValueError(
        f"{path} {who}, and reading it would run code that may be in it. Where you know where it comes from, {cure}, or "
        "take it over (chown, chmod go-w). Nothing was read."
    )


def _own_group(gid: int) -> bool:
    """Return whether this is the user's private group; root's never counts, since administrators share it."""
    try:
        user, group = pwd.getpwuid(os.geteuid()), grp.getgrgid(gid)
    except (KeyError, OSError):
        return False
    return (
        user.pw_uid != 0 and user.pw_gid == gid and group.gr_name == user.pw_name and {*group.gr_mem} <= {user.pw_name}
    )


def _name(uid: int) -> str:
    try:
        known: Any = pwd.getpwuid(uid)
    except (KeyError, OSError):
        return f"the unknown user {uid}"
    return f"the user {known.pw_name}"
