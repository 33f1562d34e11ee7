"""Find a folder private enough to load code from, and check that a file in it is still what was built.

A library that is loaded is code that runs. So the folder is the user's own, closed to everybody else, and reached by folders
in which nobody else can rename anything; a file in it is a regular one of the user's, and has the digest that was written
when it was built. What is loaded is the file that was checked, by its descriptor, whatever happens to its name meanwhile.
"""

import contextlib
import hashlib
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from ..files.ownership import stranger

DIGEST = ".sha256"
BUILDING = ".building-"
LEFT_BEHIND = 3600  # seconds after which a build is no longer under way
LARGEST = 1 << 26  # bytes; a build has some 200 thousand
CURE = "set DADAPT_DIST_CACHE to a folder of your own"
UNMAPPED = 65534  # who root is in a namespace that does not know root


class UnavailableError(RuntimeError):
    """The compiled step can be neither loaded nor built here."""


class RefusedError(UnavailableError):
    """It is there, and somebody else may have put it there."""


def candidates() -> tuple[list[Path], list[str]]:
    """(folders in which a build may be kept, best first, why another is none).

    The second is there for a home that cannot be written. With DADAPT_DIST_CACHE there is that one alone.
    """
    given = os.environ.get("DADAPT_DIST_CACHE")
    owner = os.geteuid() if hasattr(os, "geteuid") else "user"
    places = (
        [lambda: Path(os.path.abspath(Path(given).expanduser()))]
        if given
        else [lambda: _user_caches() / "dadapt_dist", lambda: Path(tempfile.gettempdir()) / f"dadapt_dist-{owner}"]
    )
    found = [_or_reason(place) for place in places]
    return [one for one in found if isinstance(one, Path)], [one for one in found if isinstance(one, str)]


def _or_reason(place: Callable[[], Path]) -> Path | str:
    try:
        return place()
    except (RuntimeError, OSError, ValueError, KeyError) as error:  # no home, no temporary folder
        return f"{error}"


def _user_caches() -> Path:
    given = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    if not given.is_absolute():
        raise ValueError(f"the cache folder {given} is no absolute path; {CURE}")
    return given


# ---------------------------------------------------------------- the folder


def private(folder: Path, *, create: bool) -> Path:
    """The folder by its real path, made where it is not there. Raises RefusedError where others may write, or OSError."""
    if folder.is_symlink():
        raise RefusedError(f"{folder} is a symbolic link; {CURE}")
    real = Path(os.path.realpath(folder))
    _check_way(real)
    if create and not real.exists():
        for missing in [part for part in (*reversed(real.parents), real) if not part.exists()]:
            with contextlib.suppress(FileExistsError):  # another rank's
                missing.mkdir(mode=0o700)
        _check_way(real)
    descriptor = os.open(real, os.O_RDONLY | getattr(os, "O_DIRECTORY", 0) | getattr(os, "O_NOFOLLOW", 0))
    try:
        status = os.fstat(descriptor)
        who = stranger(status, owners=_me())
        if who is not None or (hasattr(os, "geteuid") and status.st_mode & 0o022):
            raise RefusedError(f"{real} {who or 'is writable by its group'}; {CURE}")
        if hasattr(os, "fchmod") and stat.S_IMODE(status.st_mode) != 0o700 and _holds_builds_alone(real):
            os.fchmod(descriptor, 0o700)
    finally:
        os.close(descriptor)
    return real


def _holds_builds_alone(folder: Path) -> bool:
    """A folder that the user has for other things, too, keeps its mode: others may read it, which does no harm."""
    return all(name.startswith(("step-", BUILDING)) for name in os.listdir(folder))


def _check_way(real: Path) -> None:
    """Nobody else may rename a folder on the way. In one with the sticky bit only its owner may, and that is checked below."""
    for parent in reversed(real.parents):
        try:
            status = os.lstat(parent)
        except FileNotFoundError:
            return  # the rest will be made
        if hasattr(os, "geteuid"):
            who = stranger(status, owners=(0, os.geteuid(), *_root_elsewhere()))
            if who is not None and not (who.startswith("is writable") and status.st_mode & stat.S_ISVTX):
                raise RefusedError(f"{parent}, in which {real.name} lies, {who}; {CURE}")


def _me() -> tuple[int, ...]:
    return (os.geteuid(),) if hasattr(os, "geteuid") else ()


def _root_elsewhere() -> tuple[int, ...]:
    """In a user namespace root's own folders may seem to be nobody's."""
    try:
        ranges = Path("/proc/self/uid_map").read_text().split()
    except OSError:
        return ()
    return () if ranges == ["0", "0", "4294967295"] else (UNMAPPED,)


def sweep(folder: Path) -> None:
    """Remove what killed builds have left. In place; what another rank removes at the same time is no error."""
    for left in folder.glob(f"{BUILDING}*"):
        if (age(left) or 0) > LEFT_BEHIND:
            shutil.rmtree(left, ignore_errors=True)


# ---------------------------------------------------------------- a file in it


def age(path: Path) -> float | None:
    """Seconds since the file was built; None where there is none."""
    try:
        return max(0.0, time.time() - path.lstat().st_mtime)
    except OSError:
        return None


def checked(path: Path, owners: tuple[int, ...] | None = None, *, digest: str | None = None) -> int:
    """A descriptor of the library, which is its owner's alone and has the digest beside it, or the given one.

    owners: user ids; unless given, the user. digest: "" asks for none. Raises RefusedError, UnavailableError where the file
    is not what was built, or OSError.
    """
    owners = _me() if owners is None else owners
    descriptor, status = _opened(path, owners)
    try:
        if not stat.S_ISREG(status.st_mode) or status.st_size > LARGEST:
            raise UnavailableError(f"{path} is no library")
        if digest is None:
            digest = _noted(path.with_name(path.name + DIGEST), owners)
        if digest != "" and _digest_of(descriptor) != digest:
            raise UnavailableError(f"{path} is not what was built: its sha256 is another")
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _opened(path: Path, owners: tuple[int, ...]) -> tuple[int, os.stat_result]:
    """A descriptor of a file that only its owners may have written, and its status."""
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    descriptor = os.open(path, flags)
    status = os.fstat(descriptor)
    who = stranger(status, owners=owners)
    if who is not None:
        os.close(descriptor)
        raise RefusedError(f"{path} {who}: delete it")
    return descriptor, status


def _noted(path: Path, owners: tuple[int, ...]) -> str:
    """The digest in a file."""
    try:
        descriptor, status = _opened(path, owners)
    except OSError as error:
        raise UnavailableError(f"{path} is missing") from error
    try:
        text = os.read(descriptor, 65).decode("ascii", "replace") if stat.S_ISREG(status.st_mode) else ""
    finally:
        os.close(descriptor)
    return text.strip() or "none"


def _digest_of(descriptor: int) -> str:
    """The sha256 of all of the file, whose size may not be what it says."""
    with open(descriptor, "rb", closefd=False) as file:
        file.seek(0)
        return hashlib.sha256(file.read(LARGEST + 1)).hexdigest()


def seal(made: Path) -> str:
    """Make a new build its owner's alone, write its digest beside it, and both to the disk. Returns the digest."""
    descriptor = os.open(made, os.O_RDWR | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0))
    try:
        if hasattr(os, "fchmod"):
            os.fchmod(descriptor, 0o700)
        digest = _digest_of(descriptor)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    with open(made.with_name(made.name + DIGEST), "x", encoding="ascii") as file:
        file.write(digest)
        file.flush()
        os.fsync(file.fileno())
    return digest


def keep(made: Path, path: Path) -> None:
    """Put a sealed build under its name, whole or not at all, and for good: through a crash of the machine, too."""
    made.with_name(made.name + DIGEST).replace(path.with_name(path.name + DIGEST))
    made.replace(path)
    if hasattr(os, "O_DIRECTORY"):
        descriptor = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def loadable(descriptor: int, path: Path) -> str:
    """The name by which the loader finds the file of the descriptor, which stays open as long as the library is loaded."""
    name = f"/proc/self/fd/{descriptor}"
    return name if os.path.exists(name) else str(path)
