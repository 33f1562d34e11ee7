"""Check that a library is loaded only from where nobody else can write, and that broken compilers and builds are handled."""

import logging
import os
import resource
import shutil
import signal
import stat
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dadapt_dist.kernels import cpu_c_cache, cpu_c_compiler, cpu_c_library

pytestmark = pytest.mark.skipif(not cpu_c_library.compilers(), reason="no C compiler")
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
NOBODY = 54321
TINY = "#include <stdint.h>\nint dadapt_version(void) {{ return {version}; }}\nint dadapt_step(int64_t n) {{ return (int)n; }}\n"


@pytest.fixture(autouse=True)
def home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """A home and a temporary folder of its own, and a source that is built in no time."""
    source = tmp_path / "package" / "cpu_c_step.c"
    source.parent.mkdir()
    source.write_text(TINY.format(version=cpu_c_library.VERSION))
    monkeypatch.setattr(cpu_c_library, "SOURCE", source)
    for name in ("CC", "DADAPT_DIST_KERNEL", "DADAPT_DIST_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "tmp").mkdir(mode=0o700)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir(mode=0o700)
    cpu_c_library.load.cache_clear()
    yield tmp_path / "home" / ".cache" / "dadapt_dist"
    cpu_c_library.load.cache_clear()


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("*.so"))


def lines(log: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    return [record for record in log.records if record.levelno >= logging.INFO]


def script(path: Path, text: str) -> str:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


def alive(group: int) -> list[str]:
    """The processes of a group that have not ended; an orphan may still wait for whoever counts the dead."""
    found = [path.read_text().rpartition(")")[2].split() for path in Path("/proc").glob("[0-9]*/stat")]
    return [state for state, _, its_group, *_ in found if its_group == str(group) and state != "Z"]


REAL = shutil.which("cc") or shutil.which("gcc") or ""


def test_a_new_cache_is_the_users_alone_and_holds_a_digest(home: Path) -> None:
    before = os.umask(0)
    try:
        cpu_c_library.find()
    finally:
        os.umask(before)
    assert stat.S_IMODE(home.stat().st_mode) == stat.S_IMODE(home.parent.stat().st_mode) == 0o700
    (name,) = names(home)
    assert not (home / name).stat().st_mode & 0o022
    done = subprocess.run(["sha256sum", home / name], capture_output=True, text=True, check=True)
    assert (home / (name + ".sha256")).read_text() == done.stdout.split()[0]


# ---------------------------------------------------------------- what somebody else has put there


def plant(path: Path, marker: Path) -> None:
    """A library under the right name, with the right digest, that leaves a mark when it is loaded."""
    source = path.with_suffix(".planted.c")
    begun = f'#include <stdio.h>\n__attribute__((constructor)) static void ran(void) {{ fclose(fopen("{marker}", "w")); }}\n'
    source.write_text(begun + TINY.format(version=cpu_c_library.VERSION))
    subprocess.run([REAL, "-shared", "-fPIC", "-o", path, source], check=True)
    source.unlink()
    path.chmod(0o755)
    cpu_c_cache.seal(path)


def linked(home: Path) -> None:
    home.rename(home.with_name("elsewhere"))
    home.symlink_to(home.with_name("elsewhere"))


def linked_file(home: Path) -> None:
    for path in list(home.iterdir()):
        path.rename(home.parent / path.name)
        path.symlink_to(home.parent / path.name)


def given_away(home: Path) -> None:
    for path in (home, *home.iterdir()):
        os.chown(path, NOBODY, NOBODY)


PLANTED: dict[str, Callable[[Path], object]] = {
    "group": lambda home: home.chmod(0o770),
    "all": lambda home: home.chmod(0o777),
    "sticky": lambda home: home.chmod(0o1777),
    "parent": lambda home: home.parent.chmod(0o777),
    "library": lambda home: next(home.glob("*.so")).chmod(0o722),
    "digest": lambda home: next(home.glob("*.sha256")).chmod(0o666),
    "link": linked,
    "linked file": linked_file,
    "of another": given_away,
    "file of another": lambda home: os.chown(next(home.glob("*.so")), NOBODY, NOBODY),
    "digest of another": lambda home: os.chown(next(home.glob("*.sha256")), NOBODY, NOBODY),
    "parent of another": lambda home: os.chown(home.parent, NOBODY, NOBODY),
}


@pytest.mark.slow
@pytest.mark.parametrize("how", PLANTED)
def test_a_planted_library_is_never_loaded(
    how: str, home: Path, tmp_path: Path, library_log: pytest.LogCaptureFixture
) -> None:
    if "another" in how and os.geteuid() != 0:
        pytest.skip("only root can give files away")
    home.mkdir(parents=True, mode=0o700)
    home.parent.chmod(0o700)
    name = cpu_c_library._names()[0]
    plant(home / name, tmp_path / "ran")
    PLANTED[how](home)
    assert cpu_c_library.find().dadapt_version() == cpu_c_library.VERSION
    assert not (tmp_path / "ran").exists()
    if how != "linked file":  # a link is no file of anybody's
        (record,) = lines(library_log)
        assert record.levelno == logging.WARNING
        assert "\n" not in record.getMessage()


@needs_root
def test_what_lies_in_the_temporary_folder_of_another_is_not_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "package" / "cpu_c_step.c"))  # no folder
    folder = tmp_path / "tmp" / f"dadapt_dist-{os.geteuid()}"
    folder.mkdir()
    plant(folder / cpu_c_library._names()[0], tmp_path / "ran")
    given_away(folder)
    with pytest.raises(
        cpu_c_library.UnavailableError, match="belongs to the unknown user 54321; set DADAPT_DIST_CACHE"
    ):
        cpu_c_library.find()
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("mode", [0o700, 0o722])
def test_the_packages_own_library_is_taken_where_others_cannot_write_it(mode: int, tmp_path: Path) -> None:
    path = cpu_c_library.SOURCE.with_name("step.so")
    plant(path, tmp_path / "ran")
    path.chmod(mode)
    cpu_c_library.find()
    assert (tmp_path / "ran").exists() == (mode == 0o700)


def test_a_folder_that_is_read_by_others_is_closed_unless_it_holds_other_things(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("own", "shared"):
        (tmp_path / name).mkdir()
        (tmp_path / name).chmod(0o755)
    (tmp_path / "shared" / "thesis.tex").touch()
    for name, mode in (("own", 0o700), ("shared", 0o755)):
        monkeypatch.setenv("DADAPT_DIST_CACHE", str(tmp_path / name))
        cpu_c_library.find()
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == mode


# ---------------------------------------------------------------- what is damaged, left over, or less than the best


def torn(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])  # the loader would die of SIGBUS


def flipped(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


DAMAGE: dict[str, Callable[[Path], object]] = {
    "torn": torn,
    "empty": lambda path: path.write_bytes(b""),
    "one bit": flipped,
    "no digest": lambda path: path.with_name(path.name + ".sha256").unlink(),
    "empty digest": lambda path: path.with_name(path.name + ".sha256").write_text(""),
    "a folder": lambda path: (path.unlink(), path.mkdir()),
    "a pipe": lambda path: (path.unlink(), os.mkfifo(path)),
}


@pytest.mark.parametrize("how", DAMAGE)
def test_what_is_not_what_was_built_is_replaced(how: str, home: Path) -> None:
    cpu_c_library.find()
    (name,) = names(home)
    DAMAGE[how](home / name)
    if how == "a folder":  # cannot be replaced by a file, and is passed over
        assert cpu_c_library.find().dadapt_version() == cpu_c_library.VERSION
        return
    cpu_c_library.find()
    os.close(cpu_c_cache.checked(home / name))


def test_what_killed_builds_left_is_removed_after_an_hour(home: Path) -> None:
    for name, age in (("old", 7200), ("new", 60)):
        folder = home / f".building-{name}"
        folder.mkdir(parents=True)
        (folder / "made.so").touch()
        os.utime(folder, (time.time() - age,) * 2)
    cpu_c_library.find()
    assert [path.name for path in home.glob(".building-*")] == [".building-new"]


def test_a_lesser_build_is_not_taken_for_the_best_nor_for_good(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state, calls = home.parents[1] / "state", home.parents[1] / "calls"
    refuse = f'case "$*" in *DADAPT_PLAIN*) ;; *) [ -e {state} ] && exit 1;; esac'
    monkeypatch.setenv("CC", script(home.parents[1] / "cc", f'echo >>{calls}\n{refuse}\nexec {REAL} "$@"'))
    state.touch()
    cpu_c_library.find()
    (lesser,) = names(home)
    assert lesser.endswith("-lesser.so")
    cpu_c_library.find()
    assert len(calls.read_text()) == 2  # nothing was compiled again
    state.unlink()
    os.utime(home / lesser, (time.time() - cpu_c_library.LESSER_SECONDS - 1,) * 2)
    cpu_c_library.find()
    assert set(names(home)) - {lesser} == {cpu_c_library._names()[0]}


def test_a_build_belongs_to_its_compiler_and_its_flags(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = home.parents[1] / "cc"
    calls = home.parents[1] / "calls"
    seen = set()
    for text, flags in (("", ""), (" #", ""), (" #", " -DX")):
        monkeypatch.setenv("CC", script(path, f'echo >>{calls}\nexec {REAL} "$@"{text}') + flags)
        for _ in range(2):
            cpu_c_library.find()
        seen |= set(names(home))
    assert len(seen) == 3
    assert len(calls.read_text()) == 3  # one start of the compiler a build, and none where there is one
    monkeypatch.setenv("CC", "no-such-compiler")
    assert cpu_c_library.find().dadapt_version() == cpu_c_library.VERSION  # another machine's, in the same home
    for name in seen:
        if "-given" not in name:
            (home / name).unlink()
    with pytest.raises(cpu_c_library.UnavailableError, match="no C compiler was found"):
        cpu_c_library.find()  # flags of somebody's own are for them alone


# ---------------------------------------------------------------- compilers and folders that do not work

COMPILERS = {
    'gcc "-O2': "cannot be read: No closing quotation",
    "/no/such/compiler": "no C compiler was found",
    "{folder}": "no C compiler was found",
    "{latin}": "�tendue",
    "{nothing}": "made no library",
    "{empty}": "cannot load the new library",
    "{garbage}": "",
    "{hangs}": "took more than 0.3 s",
    f"{REAL} -fsanitize=address": "",
}


@pytest.mark.parametrize("given", COMPILERS)
def test_a_compiler_that_does_not_work_is_one_line(
    given: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, library_log: pytest.LogCaptureFixture, home: Path
) -> None:
    (tmp_path / "garbage").write_bytes(b"\1\2\3")
    (tmp_path / "garbage").chmod(0o755)
    scripts = {
        "latin": script(tmp_path / "latin", "printf 'une\\nerreur \\351tendue\\n' >&2; exit 1"),
        "nothing": script(tmp_path / "nothing", "exit 0"),
        "empty": script(tmp_path / "empty", 'while [ "$1" != -o ]; do shift; done; : > "$2"'),
        "hangs": script(tmp_path / "hangs", f"echo $$ >> {tmp_path / 'started'}; sleep 77 & sleep 77"),
    }
    monkeypatch.setenv("CC", given.format(folder=tmp_path, garbage=tmp_path / "garbage", **scripts))
    monkeypatch.setattr(cpu_c_library, "BUILD_SECONDS", 0.3 if "hangs" in given else 60)
    assert cpu_c_library.load() is None
    (record,) = lines(library_log)
    assert COMPILERS[given] in record.getMessage()
    assert "\n" not in record.getMessage()
    assert list(home.glob("*")) == []
    if "hangs" in given:  # and it was ended, with what it had started
        (group,) = (tmp_path / "started").read_text().split()
        until = time.monotonic() + 10
        while alive(int(group)) and time.monotonic() < until:  # what was killed takes a moment to be gone
            time.sleep(0.05)
        assert alive(int(group)) == []


def test_a_full_disk_leaves_nothing_and_is_one_line(home: Path, library_log: pytest.LogCaptureFixture) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2048, before[1]))
    try:
        assert cpu_c_library.load() is None
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    (record,) = lines(library_log)
    assert "\n" not in record.getMessage()
    assert list(home.glob("*")) == []
    cpu_c_library.load.cache_clear()
    assert cpu_c_library.load() is not None


def test_a_place_that_cannot_be_used_is_passed_over_with_one_line(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, library_log: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert cpu_c_library.load() is not None
    monkeypatch.setenv("DADAPT_DIST_CACHE", str(tmp_path / "file"))
    cpu_c_library.load.cache_clear()
    assert cpu_c_library.load() is None
    assert [record.levelno for record in lines(library_log)] == [logging.INFO, logging.WARNING]


@pytest.mark.parametrize("given", ["builds", "~/builds", "../work/builds", "~no-such-user/builds"])
def test_the_cache_may_be_given_in_any_way(given: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setenv("HOME", str(tmp_path / "work"))
    monkeypatch.setenv("DADAPT_DIST_CACHE", given)
    if "no-such" in given:
        assert cpu_c_library.load() is None
    else:
        cpu_c_library.find()
        assert len(names(tmp_path / "work" / "builds")) == 1


@needs_root
def test_a_user_that_the_system_does_not_know_and_without_a_home_gets_one(tmp_path: Path) -> None:
    closed = [folder for folder in Path(os.path.realpath(os.__file__)).parents if not folder.stat().st_mode & 0o001]
    if closed:
        pytest.skip(f"python itself lies in {closed[-1]}, which no other user may enter")
    depth = next(i for i, folder in enumerate(tmp_path.parents) if folder.name.startswith("pytest-of-"))
    for path in (tmp_path, *tmp_path.parents[: depth + 1]):
        path.chmod(0o755)
    (tmp_path / "tmp").chmod(0o1777)
    child = os.fork()
    if child == 0:
        code = 1
        try:
            signal.alarm(60)
            os.setgid(NOBODY)
            os.setuid(NOBODY)
            del os.environ["HOME"]
            code = 7 if cpu_c_library.find().dadapt_version() == cpu_c_library.VERSION else 1
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    assert len(names(tmp_path / "tmp" / f"dadapt_dist-{NOBODY}")) == 1


def test_the_name_of_a_compiler_takes_no_process(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    words = [script(tmp_path / "cc", f"touch {ran}"), "-march=native"]
    assert cpu_c_compiler.identity(words) == cpu_c_compiler.identity(words) != cpu_c_compiler.identity(words[:1])
    assert not ran.exists()
