"""Find C compilers, and run one on a source within a time limit."""

import contextlib
import hashlib
import os
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from .cpu_c_cache import UnavailableError

USUAL = ("cc", "gcc", "clang")
TRIAL = "import ctypes, sys; ctypes.CDLL(sys.argv[1]).dadapt_version()"


class UnfinishedError(UnavailableError):
    """The compiler did not come to an end of its own: another time it may."""


class SlowError(UnfinishedError):
    """It took longer than anybody waits for it."""


def compilers() -> list[list[str]]:
    """Command lines that may compile C here, best first. None where CC cannot be read."""
    given = os.environ.get("CC")
    try:
        names = [shlex.split(given)] if given else [[name] for name in USUAL]
    except ValueError:  # a quote that is not closed
        return []
    return [name for name in names if name and shutil.which(name[0])]


def why_none() -> str:
    """Why there is no compiler, in one line."""
    given = os.environ.get("CC")
    try:
        shlex.split(given or "")
    except ValueError as error:
        return f"CC={given!r} cannot be read: {error}"
    return f"no C compiler was found ({given or ', '.join(USUAL)}); set CC to one"


def identity(words: Sequence[str]) -> str:
    """A name for a compiler with its flags, which an update changes. From its file alone: no process is started."""
    parts = list(words)
    for word in words:
        found = None if word.startswith("-") else shutil.which(word)
        if found:
            real = os.path.realpath(found)
            status = os.stat(real)
            parts += [real, str(status.st_mtime_ns), str(status.st_size)]
    if any("native" in word for word in words):
        parts.append(_processor())
    return hashlib.sha256("\0".join(parts).encode("utf-8", "surrogateescape")).hexdigest()[:12]


def _processor() -> str:
    """What distinguishes this machine's processor for -march=native; "" where the system does not tell."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as info:
            return next((line for line in info if line.startswith(("flags", "Features"))), "")
    except OSError:
        return ""


def compile_library(words: Sequence[str], source: Path, made: Path, seconds: float) -> None:
    """Compile `source` with this command line into the library `made`, whose folder also takes what the compiler needs.

    Raises UnavailableError with what the compiler said, in one line, UnfinishedError where it was killed, SlowError where it
    took longer than `seconds`, and OSError where it cannot be started.
    """
    command = [*words, "-o", str(made), str(source), "-lm"]
    _run(command, "failed", made.parent, seconds, cwd=None)
    if not made.is_file():
        raise UnavailableError(f"{shlex.join(command)} made no library")


def try_out(made: Path, seconds: float) -> None:
    """Load a new library in a process of its own: one that is torn, or wants a sanitizer, would end this one.

    Raises as `compile_library` does.
    """
    if "py" not in Path(sys.executable or "").name.lower():  # Python inside another program
        return
    command = [sys.executable, "-S", "-c", TRIAL, str(made)]
    with contextlib.suppress(OSError):  # after a change of user, Python itself may be out of reach
        _run(command, "cannot load the new library", made.parent, seconds, made.parent)


def _run(command: Sequence[str], failed: str, scratch: Path, seconds: float, cwd: Path | None) -> None:
    said = scratch / "said"
    env = {**os.environ, "TMPDIR": str(scratch), "LC_ALL": "C"}  # nobody else can reach what lies there meanwhile
    with said.open("wb") as output:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=env, cwd=cwd,
            start_new_session=True,
        )  # fmt: skip
        try:
            code = process.wait(seconds)
        except BaseException as error:
            _end(process)
            if isinstance(error, subprocess.TimeoutExpired):
                raise SlowError(f"{shlex.join(command)} took more than {seconds:g} s") from error
            raise
    if code:
        text = " ".join(said.read_bytes()[-4096:].decode("utf-8", "replace").split())[-300:]
        kind = UnfinishedError if code < 0 else UnavailableError
        raise kind(f"{shlex.join(command)} {failed}: {text or f'exit code {code}'}")


def _end(process: "subprocess.Popen[bytes]") -> None:
    """Kill it and what it has started."""
    if hasattr(os, "killpg"):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    process.kill()
    process.wait()
