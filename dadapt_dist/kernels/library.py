"""Where is the compiled step, and how is it built when it is not there yet?

A wheel brings it built, beside this file. From source it is built once a user, at first use, into a cache folder, under a
name made of the source, the compiler's flags and the machine: another version never finds a stale one. Built aside and
renamed, so that any number of ranks may start at once. Without a compiler the plain loop takes over, with one log line.

DADAPT_DIST_CACHE: another folder. CC: another compiler. DADAPT_DIST_KERNEL=off: never build nor load.
"""

import ctypes
import functools
import hashlib
import logging
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

logger = logging.getLogger(__name__)

SOURCE = Path(__file__).with_name("step.c")
VERSION = 2
FLAGS = (
    "-O3",
    "-fopenmp-simd",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-ffp-contract=off",
    "-shared",
    "-fPIC",
    "-pthread",
)
SUFFIX = ".dll" if sys.platform == "win32" else ".so"
BUILD_SECONDS = 120


class UnavailableError(RuntimeError):
    """The compiled step can be neither loaded nor built here."""


@functools.cache
def load() -> ctypes.CDLL | None:
    """The compiled step, or None, with one log line, where there is none."""
    try:
        return find()
    except UnavailableError as error:
        logger.warning("the compiled step is not available, and the slower plain loop takes its place: %s", error)
        return None


def find() -> ctypes.CDLL:
    """The compiled step: installed, cached, or built now. Raises UnavailableError with the reasons where it cannot be had."""
    if os.environ.get("DADAPT_DIST_KERNEL", "").lower() in ("off", "0", "no"):
        raise UnavailableError("DADAPT_DIST_KERNEL=off in the environment")
    failures: list[str] = []
    for path in (SOURCE.with_name("step" + SUFFIX), *_cached()):
        if path.exists() and (library := _tried(path, failures, new=False)) is not None:
            return library
    for path in _cached():
        if (library := _tried(path, failures, new=True)) is not None:
            return library
    raise UnavailableError("; ".join(dict.fromkeys(failures)))


def _tried(path: Path, failures: list[str], *, new: bool) -> ctypes.CDLL | None:
    """The library, or None with the reason noted: no compiler, a folder that cannot be written, a build for another machine."""
    try:
        return _opened(build(path) if new else path)
    except (UnavailableError, OSError) as error:
        failures.append(str(error))
        return None


def _cached() -> list[Path]:
    name = f"step-{_fingerprint()}{SUFFIX}"
    return [folder / name for folder in cache_folders()]


def cache_folders() -> list[Path]:
    """Where a build may be kept, best first: the last is there for a home that cannot be written."""
    given = os.environ.get("DADAPT_DIST_CACHE")
    if given:
        return [Path(given)]
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser())
    owner = os.getuid() if hasattr(os, "getuid") else "user"
    return [base / "dadapt_dist", Path(tempfile.gettempdir()) / f"dadapt_dist-{owner}"]


def _fingerprint() -> str:
    parts = [SOURCE.read_bytes(), " ".join(FLAGS).encode(), platform.machine().encode(), sys.platform.encode()]
    parts.append("-".join(platform.libc_ver()).encode())
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:16]


def compilers() -> list[list[str]]:
    """Command lines that may compile C here, best first."""
    given = os.environ.get("CC")
    names = [shlex.split(given)] if given else [["cc"], ["gcc"], ["clang"]]
    return [name for name in names if name and shutil.which(name[0])]


def build(path: Path) -> Path:
    """Compile step.c into `path`, whole or not at all. Raises UnavailableError or OSError with the reason."""
    if not compilers():
        raise UnavailableError(f"no C compiler was found ({os.environ.get('CC') or 'cc, gcc, clang'}); set CC to one")
    _make_private(path.parent)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".building-") as folder:
        made = Path(folder) / path.name
        _compile(made)
        _opened(made)
        made.replace(path)
    return path


def _make_private(folder: Path) -> None:
    """Create the folder; refuse one in which others could leave a library for us to load."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    status = folder.stat()
    if hasattr(os, "getuid") and (status.st_uid != os.getuid() or status.st_mode & 0o002):
        raise UnavailableError(
            f"{folder} belongs to another user or is writable by all; set DADAPT_DIST_CACHE to a folder of your own"
        )


def _compile(made: Path) -> None:
    said = ""
    for compiler in compilers():
        for extra in ((), ("-DDADAPT_PLAIN",)):  # without a version for each processor, where the linker has none
            command = [*compiler, *FLAGS, *extra, "-o", str(made), str(SOURCE), "-lm"]
            try:
                done = subprocess.run(command, capture_output=True, text=True, timeout=BUILD_SECONDS, check=False)
            except subprocess.TimeoutExpired:
                said = f"{shlex.join(command)} took more than {BUILD_SECONDS} s"
                continue
            if done.returncode == 0:
                return
            said = f"{shlex.join(command)} failed: {done.stderr.strip()[-300:]}"
    raise UnavailableError(said)


def _opened(path: Path) -> ctypes.CDLL:
    library = ctypes.CDLL(str(path))
    try:
        version = library.dadapt_version()
    except AttributeError as error:
        raise UnavailableError(f"{path} is not a build of step.c") from error
    if version != VERSION:
        raise UnavailableError(f"{path} is version {version}, and {VERSION} is needed; delete it")
    library.dadapt_step.argtypes = [ctypes.c_int64, *[ctypes.c_void_p] * 4]
    library.dadapt_step.restype = ctypes.c_int
    return library
