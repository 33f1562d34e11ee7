"""Find or build the compiled step and the functions of each method, a library each, and load them.

A wheel may bring it built, beside this file. From source it is built once a user, at first use, into a cache folder that is
the user's alone, under a name made of the source, the flags, the machine and the compiler: another version never finds a
stale one, and another compiler not this one's. Built aside and renamed, so that any number of ranks may start at once.
Without a compiler the plain loop takes over, with one log line.

DADAPT_DIST_CACHE: another folder. CC: another compiler. DADAPT_DIST_KERNEL=off: never build nor load.
"""

import ctypes
import functools
import hashlib
import logging
import os
import platform
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from . import cpu_c_cache, cpu_c_compiler
from .cpu_c_cache import RefusedError, UnavailableError
from .cpu_c_compiler import compilers

__all__ = ["UnavailableError", "build", "compilers", "find", "load"]
logger = logging.getLogger(__name__)

SOURCE = Path(__file__).with_name("cpu_c_step.c")
HEADER = SOURCE.with_name("cpu_c_method.h")
VERSION = 8
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
GIVEN, LESSER = "-given", "-lesser"
"""In the name of a build by a compiler with flags of the user's, and of one that is less than the best."""
LESSER_SECONDS = 86400
"""For so long a lesser build is taken before the best is tried again."""


@functools.cache
def load(text: str | None = None) -> ctypes.CDLL | None:
    """The compiled step, or None, with one log line, where there is none. text: C source to be built in its place."""
    try:
        return find(text)
    except UnavailableError as error:
        logger.warning("the compiled step is not available, and the slower plain loop takes its place: %s", error)
        return None


def with_header(source: str) -> str:
    """C source with cpu_c_method.h in it: what the build is named after is all that it is made of."""
    return source.replace(f'#include "{HEADER.name}"\n', HEADER.read_text(encoding="utf-8"))


def _text(text: str | None) -> str:
    return with_header(SOURCE.read_text(encoding="utf-8")) if text is None else text


def find(text: str | None = None) -> ctypes.CDLL:
    """The compiled step: installed, cached, or built now. Raises UnavailableError with the reasons where it cannot be had.

    text: the C source of the functions of a method, which have a library of their own; None: cpu_c_step.c.

    Where it can be had, but not from the first place or by the first compiler, one log line says why: a warning where a
    place was refused because somebody else may have written there.
    """
    if os.environ.get("DADAPT_DIST_KERNEL", "").lower() in ("off", "0", "no"):
        raise UnavailableError("DADAPT_DIST_KERNEL=off in the environment")
    failures = Failures()
    for attempt in _attempts(failures, text):
        found = failures.noted(attempt)
        if found is not None:
            if failures.reasons:
                level = logging.WARNING if failures.refused else logging.INFO
                logger.log(level, "the compiled step is %s: %s", found[0], failures)
            return found[1]
    raise UnavailableError(str(failures))


Found = tuple[Path, ctypes.CDLL]
Attempt = Callable[[], Found | None]


class Failures:
    """Why the library is not where it was looked for.

    refused: once because somebody else may have written there. slow: a compiler took too long, and no other folder helps.
    """

    def __init__(self) -> None:
        self.reasons: list[str] = []
        self.refused = self.slow = False

    def noted(self, attempt: Attempt) -> Found | None:
        """What the attempt finds, or None with the reason noted."""
        try:
            return attempt()
        except (UnavailableError, OSError, ValueError) as error:
            self.add(error)
            return None

    def add(self, error: Exception | str) -> None:
        """Note a reason once."""
        reason = " ".join(str(error).split()).encode("utf-8", "backslashreplace").decode()
        self.refused = self.refused or isinstance(error, RefusedError)
        self.slow = self.slow or isinstance(error, cpu_c_compiler.SlowError)
        if reason not in self.reasons:
            self.reasons.append(reason)

    def __str__(self) -> str:
        return "; ".join(self.reasons)


def _attempts(failures: Failures, text: str | None) -> Iterator[Attempt]:
    """Everything that may give a library, best first; an attempt gives None where nothing is there."""
    folders, reasons = cpu_c_cache.candidates()
    yield functools.partial(_installed, text)
    for name in _names(text):
        yield from (functools.partial(_kept, folder, name) for folder in folders)
    for reason in reasons:
        failures.add(reason)
    yield from (functools.partial(_built, folder, failures, text) for folder in folders if not failures.slow)
    yield from (functools.partial(_of_another_machine, folder, failures, text) for folder in folders)


def _loaded(path: Path, descriptor: int) -> Found:
    """The library in the file of this descriptor, which stays open as long as it is loaded."""
    try:
        library = ctypes.CDLL(cpu_c_cache.loadable(descriptor, path))
    except OSError as error:
        os.close(descriptor)
        raise UnavailableError(f"{path} cannot be loaded: {error}") from error
    try:
        version = library.dadapt_version()
    except AttributeError as error:
        raise UnavailableError(f"{path} is not a build of cpu_c_step.c") from error
    if version != VERSION:
        raise UnavailableError(f"{path} is version {version}, and {VERSION} is needed; delete it")
    if hasattr(library, "dadapt_method"):
        library.dadapt_method.restype = ctypes.c_void_p
        library.dadapt_way.argtypes = [ctypes.c_void_p, ctypes.c_int]
        library.dadapt_sums.argtypes = [ctypes.c_int, *[ctypes.c_void_p] * 3]
    else:
        library.dadapt_step.argtypes = [ctypes.c_int64, *[ctypes.c_void_p] * 6]
        library.dadapt_step.restype = ctypes.c_int
    return path, library


# ---------------------------------------------------------------- what is there already


def _installed(text: str | None) -> Found | None:
    """The one that the package brought, which nobody may have written but who may write the package."""
    path = SOURCE.with_name(("step" if text is None else f"step-{_fingerprint(text)}") + SUFFIX)
    if cpu_c_cache.age(path) is None:
        return None
    has_digest = cpu_c_cache.age(path.with_name(path.name + cpu_c_cache.DIGEST)) is not None
    return _loaded(path, cpu_c_cache.checked(path, (0, SOURCE.stat().st_uid), digest=None if has_digest else ""))


def _kept(folder: Path, name: str) -> Found | None:
    age = cpu_c_cache.age(folder / name)
    if age is None or (LESSER in name and age > LESSER_SECONDS):
        return None
    path = cpu_c_cache.private(folder, create=False) / name
    return _loaded(path, cpu_c_cache.checked(path))


def _of_another_machine(folder: Path, failures: Failures, text: str | None) -> Found | None:
    """Where nothing can be built: what a machine with a compiler has built of this source, in a home that both have."""
    names = [
        path.name for path in sorted(folder.glob(f"step-{_fingerprint(text)}-*{SUFFIX}")) if GIVEN not in path.name
    ]
    for name in sorted(names, key=lambda name: LESSER in name):
        private = cpu_c_cache.private(folder, create=False)
        found = failures.noted(lambda path=private / name: _loaded(path, cpu_c_cache.checked(path)))  # type: ignore[misc]
        if found is not None:
            return found
    return None


# ---------------------------------------------------------------- names


def _names(text: str | None = None) -> list[str]:
    """Under which a build for the compilers of today may be kept, best first."""
    first, *others = compilers() or [[]]
    return [_name(text, first), _name(text, first, LESSER), *(_name(text, words, LESSER) for words in others)]


def _name(text: str | None, words: list[str], kind: str = "") -> str:
    return f"step-{_fingerprint(text)}-{cpu_c_compiler.identity(words)}{GIVEN if len(words) > 1 else ''}{kind}{SUFFIX}"


def _fingerprint(text: str | None) -> str:
    parts = [_text(text).encode(), " ".join(FLAGS).encode(), platform.machine().encode(), sys.platform.encode()]
    parts.append("-".join(_libc()).encode())
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:16]


@functools.cache
def _libc() -> tuple[str, str]:
    return platform.libc_ver()


# ---------------------------------------------------------------- a new build


def build(folder: Path) -> Path:
    """Compile cpu_c_step.c into the folder, whole or not at all. Raises UnavailableError or OSError with the reason."""
    return _built(folder, Failures(), None)[0]


def _built(folder: Path, failures: Failures, text: str | None) -> Found:
    if not compilers():
        raise UnavailableError(cpu_c_compiler.why_none())
    home = cpu_c_cache.private(folder, create=True)
    cpu_c_cache.sweep(home)
    with tempfile.TemporaryDirectory(dir=home, prefix=cpu_c_cache.BUILDING, ignore_cleanup_errors=True) as scratch:
        made = Path(scratch) / f"made{SUFFIX}"
        name, lasting = _compiled(made, failures, text)
        digest = cpu_c_cache.seal(made)
        path, descriptor = home / name, cpu_c_cache.checked(made, digest=digest)
        if lasting and not _is_there(path):
            cpu_c_cache.keep(made, path)
        return _loaded(path if lasting else made, descriptor)


def _is_there(path: Path) -> bool:
    """Whether another rank was faster. A lesser build is written anew, for it counts by its age."""
    try:
        os.close(cpu_c_cache.checked(path))
    except (UnavailableError, OSError):
        return False
    return LESSER not in path.name


def _compiled(made: Path, failures: Failures, text: str | None) -> tuple[str, bool]:
    """Compile the source into `made` by the first compiler that can; (its name, whether it may be kept).

    What is less than the best build of the first compiler has a name of its own, and is not kept at all where the best
    failed for a reason of the moment.
    """
    lasting, tried, source = True, Failures(), made.with_name(SOURCE.name)
    source.write_text(_text(text), encoding="utf-8")
    for index, words in enumerate(compilers()):
        for extra in ((), ("-DDADAPT_PLAIN",)):  # without a version for each processor, where the linker has none
            try:
                cpu_c_compiler.compile_library([*words, *FLAGS, *extra], source, made, BUILD_SECONDS)
                cpu_c_compiler.try_out(made, BUILD_SECONDS)
            except (UnavailableError, OSError) as error:
                made.unlink(missing_ok=True)
                tried.add(error)
                lasting = lasting and not isinstance(error, (cpu_c_compiler.UnfinishedError, OSError))
                if not lasting:
                    break
                continue
            failures.reasons += tried.reasons
            return _name(text, words, LESSER if index or extra else ""), lasting
    failures.slow = tried.slow
    raise UnavailableError(tried.reasons[-1])
