"""Check that the compiled step is found or built by many ranks at once, and that its absence gives one log message."""

import ctypes
import logging
import os
import shutil
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

import dadapt_dist as dd
from dadapt_dist.kernels import cpu_c, cpu_c_cache, cpu_c_library
from tests.helpers.pool import WorkerPool

needs_compiler = pytest.mark.skipif(not cpu_c_library.compilers(), reason="no C compiler")


@pytest.fixture(autouse=True)
def _anew(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An empty cache, and nothing loaded."""
    for name in ("CC", "DADAPT_DIST_KERNEL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DADAPT_DIST_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(cpu_c_library, "FLAGS", ("-O0", *cpu_c_library.FLAGS[1:]))  # quick to build
    cpu_c_library.load.cache_clear()
    yield
    cpu_c_library.load.cache_clear()


def built(folder: Path) -> list[Path]:
    """The libraries of a cache, in which nothing else lies but their digests."""
    everything = sorted(folder.glob("*"))
    libraries = [path for path in everything if path.suffix == ".so"]
    assert sorted([*libraries, *(path.with_name(path.name + ".sha256") for path in libraries)]) == everything
    return libraries


@needs_compiler
def test_it_is_built_once_and_found_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cpu_c_library.find()
    [path] = built(tmp_path / "cache")
    made = path.stat().st_mtime_ns
    monkeypatch.setenv("CC", "no-such-compiler")
    cpu_c_library.find()
    assert path.stat().st_mtime_ns == made


@needs_compiler
def test_ranks_that_start_at_once_all_get_a_whole_one(tmp_path: Path) -> None:
    with ThreadPoolExecutor(6) as threads:
        paths = list(threads.map(lambda _: cpu_c_library.build(tmp_path / "cache"), range(6)))
    assert len(set(paths)) == 1
    assert built(tmp_path / "cache") == [paths[0]]
    assert ctypes.CDLL(str(paths[0])).dadapt_version() == cpu_c_library.VERSION


@needs_compiler
def test_a_damaged_build_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir()
    path = cpu_c_cache.candidates()[0][0] / cpu_c_library._names()[0]
    path.write_bytes(b"half a library")
    cpu_c_library.find()
    assert path.stat().st_size > 1000


def test_without_a_compiler_the_plain_loop_runs_with_one_log_line(
    monkeypatch: pytest.MonkeyPatch, library_log: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("CC", "no-such-compiler")
    p = torch.nn.Parameter(torch.zeros(3))
    for _ in range(2):
        optimizer = dd.Prodigy([p])
        for _ in range(3):
            p.grad = torch.ones(3)
            optimizer.step()
    assert optimizer.d > 1e-6
    [message] = [record.getMessage() for record in library_log.records if record.levelno >= logging.INFO]
    assert "no C compiler was found (no-such-compiler); set CC to one" in message
    with pytest.raises(ValueError, match=r"backend='c' cannot be had here. Install a C compiler"):
        dd.Prodigy([p], backend="c")


@needs_compiler
def test_a_compiler_that_fails_says_what_it_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = tmp_path / "cc"
    broken.write_text("#!/bin/sh\necho the disk is full >&2\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setenv("CC", str(broken))
    with pytest.raises(cpu_c_library.UnavailableError, match="the disk is full"):
        cpu_c_library.find()
    assert built(tmp_path / "cache") == []


def test_it_can_be_turned_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DADAPT_DIST_KERNEL", "off")
    assert not cpu_c.available()


@needs_compiler
def test_a_home_that_cannot_be_written_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DADAPT_DIST_CACHE")
    home = tmp_path / "home"
    home.write_text("a file where the folder would be")  # a mode would not stop root
    monkeypatch.setenv("XDG_CACHE_HOME", str(home))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    cpu_c_library.find()
    assert len(list(tmp_path.glob("dadapt_dist-*/step-*.so"))) == 1


@needs_compiler
def test_a_folder_in_which_others_may_write_is_refused(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    cache.mkdir()
    cache.chmod(0o777)
    with pytest.raises(cpu_c_library.UnavailableError, match="is writable by all; set DADAPT_DIST_CACHE"):
        cpu_c_library.find()
    assert stat.S_IMODE(cache.stat().st_mode) == 0o777


@needs_compiler
def test_a_processor_without_the_special_versions_gets_the_plain_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A linker or libc that knows no versions of a function fails; then the same source is built without them."""
    wrapper = tmp_path / "cc"
    real = shutil.which(cpu_c_library.compilers()[0][0])
    wrapper.write_text(f'#!/bin/sh\ncase "$*" in *DADAPT_PLAIN*) exec {real} "$@";; esac\necho no ifunc >&2\nexit 1\n')
    wrapper.chmod(0o755)
    monkeypatch.setenv("CC", str(wrapper))
    assert cpu_c_library.find().dadapt_version() == cpu_c_library.VERSION


@pytest.mark.slow
@needs_compiler
def test_a_forked_process_can_step(tmp_path: Path) -> None:
    """Data loaders fork: threads that a runtime keeps would not survive it; the step starts its own and ends them."""
    script = """
import os, torch, dadapt_dist as dd
torch.set_num_threads(2)
p = torch.nn.Parameter(torch.zeros(300_000)); o = dd.Prodigy([p], backend="c")
def step():
    p.grad = torch.ones_like(p); o.step()
step()
child = os.fork()
if child == 0:
    torch.set_num_threads(1); step(); os._exit(7)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
"""
    env = {**os.environ, "DADAPT_DIST_CACHE": str(tmp_path / "cache")}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script], env=env, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr


def one_without() -> str:
    """The second rank has no compiled step; what the first step says."""
    import torch.distributed as dist

    with pytest.MonkeyPatch.context() as patch:
        if dist.get_rank() == 1:
            patch.setenv("DADAPT_DIST_KERNEL", "off")
        cpu_c_library.load.cache_clear()
        p = torch.nn.Parameter(torch.ones(3))
        p.grad = torch.ones(3)
        with pytest.raises(dd.PlacementError) as raised:
            dd.Prodigy([("p", p)]).step()
        assert torch.equal(p, torch.ones(3))
    cpu_c_library.load.cache_clear()
    return str(raised.value)


@needs_compiler
def test_replicas_of_which_one_would_round_otherwise_are_refused_on_all_ranks(pool2: WorkerPool) -> None:
    for said in pool2.run(one_without):
        assert "one of them cannot run the compiled step" in said
        assert "set DADAPT_DIST_KERNEL=off everywhere" in said
