"""Could anyone but the user, or root, have written this file or folder?

What is loaded as code (a compiled library, a pickle) must be the user's own. A group of which the user is the only member
counts as the user: many systems give every user such a group, and files that it may write.
"""

import os
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


def check_trusted(path: Path, *, trust: bool, cure: str) -> None:
    """Raise ValueError for a file that somebody else may have written, unless `trust` says that it does no harm."""
    if trust:
        return
    try:
        who = stranger(path.stat())
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error
    if who is not None:
        raise ValueError(
            f"{path} {who}, and reading it runs code that it may hold. Take it over (chown, chmod go-w) once you know where "
            f"it comes from, or {cure}. Nothing was read."
        )


def _own_group(gid: int) -> bool:
    """Is it the group that a system gives to this user alone? Root's never is: its members are administrators."""
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
