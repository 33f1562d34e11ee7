"""Check the compiled step for stray accesses, undefined behaviour and races: `make sanitize` builds it with gcc's sanitizers.

`python -m tests.long.sanitized` builds cpu_c_step.c twice: with the address and undefined-behaviour sanitizers and the thread
sanitizer, and runs the kernels' tests on each build. As a pytest plugin (-p tests.long.sanitized) this module puts builds
with the sanitizer named in DADAPT_DIST_SANITIZED in the place of the compiled step and of the functions of each method.
Python itself is not instrumented: the sanitizer's library must be there before it (LD_PRELOAD), and of what it watches
elsewhere only allocations are of use.
"""

import argparse
import functools
import hashlib
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from dadapt_dist.kernels import cpu_c_library

VARIABLE = "DADAPT_DIST_SANITIZED"
COMMON = ("-O1", "-g", "-fno-omit-frame-pointer", "-fno-sanitize-recover=all", "-DDADAPT_PLAIN")
QUICK = "ignore_noninstrumented_modules=1:report_signal_unsafe=0:halt_on_error=1:symbolize=0"  # symbols of torch take minutes
BUILDS = {
    "address": ("-fsanitize=address,undefined", "libasan.so", {"ASAN_OPTIONS": "detect_leaks=0:abort_on_error=0"}),
    "thread": (
        "-fsanitize=thread",
        "libtsan.so",
        {"TSAN_OPTIONS": "ignore_noninstrumented_modules=1:report_signal_unsafe=0:halt_on_error=1:symbolize=0"},
    ),
}
TESTS = (
    "tests/unit/kernels/test_compiled_step.py",
    "tests/unit/kernels/test_huge_gradients.py",
    "tests/unit/kernels/test_memory_safety.py",
)
ROOT = Path(__file__).parents[2]


def build(kind: str, folder: Path) -> dict[str, str] | str:
    """The environment in which python can load builds with a sanitizer, which are kept in this folder; or why it cannot."""
    flag, runtime, options = BUILDS[kind]
    compilers = cpu_c_library.compilers()
    if not compilers:
        return "no C compiler was found"
    failed = compiled(kind, folder / f"step-{kind}.so", None)
    if failed:
        return f"{compilers[0][0]} cannot build with {flag}: {failed.strip()[-200:]}"
    found = []
    for name in (
        runtime,
        "libstdc++.so.6",
    ):  # which throws what torch raises, and is looked for when the first one starts
        line = [*compilers[0], f"-print-file-name={name}"]
        found.append(subprocess.run(line, capture_output=True, text=True, check=True).stdout.strip())
        if not Path(found[-1]).is_absolute():
            return f"{compilers[0][0]} has no {name} to load before python"
    preloaded = ":".join(str(Path(name).resolve()) for name in found)
    return {"LD_PRELOAD": preloaded, VARIABLE: f"{kind}:{folder}", **options}


def compiled(kind: str, made: Path, text: str | None) -> str:
    """Build cpu_c_step.c, or the functions of a method, with a sanitizer; what the compiler said where it failed, or ""."""
    source = made.with_suffix(".c")
    source.write_text(cpu_c_library._text(text))
    kept = [option for option in cpu_c_library.FLAGS if option != "-O3"]
    line = [*cpu_c_library.compilers()[0], *kept, *COMMON, BUILDS[kind][0], "-o", str(made), str(source), "-lm"]
    env = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}  # the compiler needs no sanitizer
    done = subprocess.run(line, capture_output=True, text=True, check=False, env=env)
    return done.stderr or "it failed" if done.returncode else ""


def run(kind: str, command: list[str]) -> subprocess.CompletedProcess[str] | str:
    """The command, in a process whose compiled step is built with a sanitizer; or why it cannot be run."""
    with tempfile.TemporaryDirectory() as folder:
        made = build(kind, Path(folder))
        if isinstance(made, str):
            return made
        env = {**os.environ, **made, "OMP_NUM_THREADS": "1"}
        return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)


def instead() -> None:
    """Put builds with the sanitizer of the environment in the place of the compiled step and of the functions of methods."""
    given = os.environ.get(VARIABLE)
    if not given:
        return
    kind, folder = given.split(":", 1)

    @functools.cache
    def load(text: str | None = None) -> Any:
        digest = "" if text is None else "-" + hashlib.sha256(text.encode()).hexdigest()[:16]
        made = Path(folder) / f"step-{kind}{digest}.so"
        failed = "" if made.exists() else compiled(kind, made, text)
        assert not failed, failed
        return cpu_c_library._loaded(made, os.open(made, os.O_RDONLY))[1]

    cpu_c_library.load = load


instead()


# Faults that a sanitizer must see: a row of cpu_c_step.c that claims one element too many, and a tensor that two threads write.
SEEDED = """
import torch
import tests.long.sanitized
from tests.helpers.kernel_cases import coefficients_of, options_of, task_of
from dadapt_dist.kernels import cpu_c
from dadapt_dist.methods import METHODS
torch.set_num_threads(4)
tasks = [task_of("prodigy", 1 << 17) for _ in range(2)]
method, c = METHODS["prodigy"](), coefficients_of(METHODS["prodigy"](), options_of("prodigy"))
assert all(cpu_c.supports(method, task) for task in tasks)
[rows] = cpu_c.derive(method, tasks)
cpu_c.run(method, tasks, c, False, None, [rows])
print("clean", flush=True)
{fault}
cpu_c.run(method, tasks, c, False, None, [rows])
print("unseen", flush=True)
"""
FAULTS = {
    "address": "rows.numbers[0] += 1",
    "thread": "tasks[1].g = tasks[0].g; rows.numbers[20:34] = rows.numbers[1:15]",
}


def sees(kind: str) -> str:
    """Why the sanitizer did not see its fault; "" when it did, and nothing else. LookupError where it cannot be run."""
    done = run(kind, [sys.executable, "-c", SEEDED.format(fault=FAULTS[kind])])
    if isinstance(done, str):
        raise LookupError(done)
    names = "dadapt_step", f"step-{kind}", "/proc/self/fd/"  # with symbols, or without: it is loaded by its descriptor
    found = any(name in done.stderr for name in names)
    return (
        ""
        if found and done.returncode and "clean" in done.stdout and "unseen" not in done.stdout
        else (done.stdout + done.stderr)[-3000:]
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tests", nargs="*", default=TESTS)
    tests, failed = parser.parse_args().tests, 0
    for kind in BUILDS:
        try:
            blind = sees(kind)
        except LookupError as error:
            sys.stdout.write(f"{kind}: left out, {error}\n")
            continue
        options = ["-q", "-x", "-s", "-p", "tests.long.sanitized", "-p", "no:cacheprovider"]
        done = run(kind, [sys.executable, "-m", "pytest", *options, *tests])
        assert not isinstance(done, str)
        if blind:
            failed = 1
            sys.stdout.write(f"{kind}: it does not see a fault that was put there\n{blind}\n")
        failed |= done.returncode
        sys.stdout.write(f"{kind}: {'failed' if done.returncode else 'clean'}\n{(done.stdout + done.stderr)[-6000:]}\n")
    return failed


if __name__ == "__main__":
    sys.exit(main())
