"""Start the script tests/helpers/launched.py under a launcher, and check what its ranks saw."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from .launched import model, train

ROOT = Path(__file__).parents[2]
SCRIPT = [str(ROOT / "tests" / "helpers" / "launched.py")]
BIN = Path(sys.executable).parent
MPIEXEC = str(BIN / "mpiexec")
OPENMPI, INTEL = BIN.parent / "openmpi", BIN.parent / "impi"
LAUNCHERS = ("RANK", "WORLD", "LOCAL", "MASTER", "GROUP", "OMPI", "PMI", "SLURM", "TORCHELASTIC", "GLOO")


@dataclass(frozen=True)
class Mpi:
    """One that may be installed.

    launcher: what detect() calls it. options: of mpiexec, for as many processes as are asked for. env: which library mpi4py
    loads, and what mpiexec needs. host: a line of its hostfile. cure: where it comes from.
    """

    launcher: str
    mpiexec: str
    host: str
    cure: str
    options: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)

    @property
    def needed(self) -> pytest.MarkDecorator:
        return pytest.mark.skipif(shutil.which(self.mpiexec) is None, reason=f"no {self.mpiexec}: {self.cure}")


AS_ROOT = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
MPIS = {
    "mpich": Mpi("mpich", MPIEXEC, "localhost:3", "pip install mpich"),
    "openmpi": Mpi(
        "openmpi", str(OPENMPI / "bin" / "mpiexec"), "localhost slots=3", "make setup",
        ("--oversubscribe", "--bind-to", "none"), {"MPI4PY_LIBMPI": str(OPENMPI / "lib" / "libmpi.so.40"), **AS_ROOT},
    ),
    "intel": Mpi(
        "mpich", str(INTEL / "bin" / "mpiexec"), "localhost:3", "pip install --prefix .venv/impi impi-rt", (),
        {"MPI4PY_LIBMPI": str(INTEL / "lib" / "libmpi.so.12"), "PATH": f"{INTEL}/bin:{BIN}:{os.environ['PATH']}"},
    ),
}  # fmt: skip
EACH_MPI = [pytest.param(name, marks=mpi.needed, id=name) for name, mpi in MPIS.items()]


def environment(**more: str) -> dict[str, str]:
    """That of this process without any launcher's variables."""
    own = {name: value for name, value in os.environ.items() if not name.startswith(LAUNCHERS)}
    return {**own, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore", **more}


def run(line: list[str], folder: Path, **more: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [*line, str(folder)],
        env=environment(**more),
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=200,  # where other tests run beside it
        check=False,
    )


def results(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in sorted(folder.glob("rank-*.json"))]


def check(folder: Path, size: int) -> list[dict[str, Any]]:
    """Every rank has torchrun's variables and the same d, that of one process."""
    found, alone = results(folder), train(model(), 0, 1)
    assert len(found) == size
    for rank, one in enumerate(found):
        env, world = one["env"], one["world"]
        assert (
            (env["RANK"], env["WORLD_SIZE"]) == (str(rank), str(size)) == (str(world["rank"]), str(world["world_size"]))
        )
        assert (env["LOCAL_RANK"], env["LOCAL_WORLD_SIZE"]) == (
            str(world["local_rank"]),
            str(world["local_world_size"]),
        )
        assert env["MASTER_ADDR"]
        assert env["MASTER_PORT"] == found[0]["env"]["MASTER_PORT"]
        assert {**one["again"], "launcher": ""} == {
            **world,
            "launcher": "",
            "node": one["again"]["node"],
            "nodes": one["again"]["nodes"],
        }
        assert one["d"] == found[0]["d"], "d differs between ranks"
        assert one["d"] == pytest.approx(alone, rel=1e-12)
    assert alone[-1] > 2e-3
    return found


@contextmanager
def started(line: list[str], folder: Path, **more: str) -> "Iterator[subprocess.Popen[bytes]]":
    process = subprocess.Popen([*line, str(folder)], env=environment(**more), cwd=folder, stderr=subprocess.DEVNULL)
    with process:
        try:
            yield process
        finally:
            process.kill()
