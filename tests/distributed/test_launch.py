"""One script starts torch.distributed under every launcher, with the variables that torchrun sets and one d."""

import re
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dadapt_dist import launch
from dadapt_dist.launch import World
from tests.helpers.launchers import MPIEXEC, MPIS, ROOT, SCRIPT, check, environment, results, run, started
from tests.helpers.pool import WorkerPool

needs_mpi = MPIS["mpich"].needed


ALONE = """
import os, pathlib, torch, torch.distributed as dist
from dadapt_dist import launch
for _ in range(2):
    launch.init()
    sums = torch.ones(2)
    dist.all_reduce(sums)
    dist.new_group([0])
    names = [os.readlink(path) for path in pathlib.Path("/proc/self/fd").iterdir() if path.is_symlink()]
    own = {name[8:-1] for name in names if name.startswith("socket:")}
    for table in ("tcp", "tcp6"):
        rows = [line.split() for line in pathlib.Path("/proc/self/net", table).read_text().splitlines()[1:]]
        open_to = {row[1].split(":")[0] for row in rows if row[3] == "0A" and row[9] in own}
        assert open_to <= {"0100007F"}, open_to  # 127.0.0.1
    dist.destroy_process_group()
dist.init_process_group("gloo")  # by the variables that are set
assert dist.get_world_size() == 1
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_process_that_is_alone_listens_to_no_other_machine() -> None:
    done = subprocess.run(
        [sys.executable, "-c", ALONE], env=environment(), capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 0, done.stderr


def test_plain_python_is_a_group_of_one(tmp_path: Path) -> None:
    done = run([sys.executable, *SCRIPT], tmp_path)
    assert done.returncode == 0, done.stderr
    assert check(tmp_path, 1)[0]["launcher"] == "python"


def test_plain_python_under_an_interface_that_is_not_there(tmp_path: Path) -> None:
    done = run([sys.executable, *SCRIPT], tmp_path, GLOO_SOCKET_IFNAME="ib7")
    assert done.returncode == 1
    assert "LaunchError: rank 0: gloo did not start at 127.0.0.1:" in done.stderr
    assert "with GLOO_SOCKET_IFNAME ib7" in done.stderr


def test_a_group_that_exists_knows_who_is_who(pool2: WorkerPool) -> None:
    """Started by a script's own init_process_group, with no variable of any launcher, or with those of something else."""
    for variables in ({}, {"RANK": "0"}, {"RANK": "3", "WORLD_SIZE": "8"}):
        worlds = pool2.run(existing, variables)
        assert [(world.rank, world.world_size, world.has_local_rank) for world in worlds] == [
            (0, 2, False),
            (1, 2, False),
        ]


def existing(variables: dict[str, str]) -> World:
    with pytest.MonkeyPatch.context() as patch:
        for name in ("RANK", "WORLD_SIZE"):
            patch.delenv(name, raising=False)
        for name, value in variables.items():
            patch.setenv(name, value)
        return launch.init()


@needs_mpi
def test_mpiexec_with_an_address_needs_no_mpi_in_python(tmp_path: Path) -> None:
    (tmp_path / "mpi4py.py").write_text("raise ImportError('not here')")
    line = [MPIEXEC, "-n", "2", sys.executable, *SCRIPT]
    done = run(line, tmp_path, PYTHONPATH=f"{tmp_path}:{ROOT}", MASTER_ADDR="127.0.0.1", MASTER_PORT="29611")
    assert done.returncode == 0, done.stderr
    check(tmp_path, 2)


@needs_mpi
def test_a_rank_that_fails_under_mpiexec_ends_all(tmp_path: Path) -> None:
    start = time.monotonic()
    done = run([MPIEXEC, "-n", "2", sys.executable, *SCRIPT], tmp_path, FAIL_ONCE=str(tmp_path / "failed"))
    assert done.returncode != 0
    assert "ZeroDivisionError: the first attempt" in done.stderr
    assert time.monotonic() - start < 50, "the other rank slept on"


@needs_mpi
def test_a_port_that_is_taken_is_an_error_on_every_rank_under_mpiexec(tmp_path: Path) -> None:
    """Rank 0 alone sees it, while the others wait in MPI, which has no timeout."""
    with socket.socket() as taken:
        taken.bind(("0.0.0.0", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        done = run([MPIEXEC, "-n", "2", sys.executable, *SCRIPT], tmp_path, MASTER_PORT=port)
    assert done.returncode != 0
    # Whichever rank speaks first: mpiexec then ends the other.
    assert re.search(r"LaunchError: rank [01]: rank 0 cannot open a port for the ranks to meet: ", done.stderr), (
        done.stderr
    )


@needs_mpi
def test_another_mpi_than_the_launchers_is_an_error(tmp_path: Path) -> None:
    """Variables of Open MPI, and a library that knows nothing of them: every process would be alone, with exit code 0."""
    names = {"RANK": "0", "SIZE": "2", "LOCAL_RANK": "0", "LOCAL_SIZE": "2"}
    done = run(
        [sys.executable, *SCRIPT], tmp_path, **{f"OMPI_COMM_WORLD_{name}": value for name, value in names.items()}
    )
    assert done.returncode != 0
    assert "the launcher (openmpi) started 2 processes and MPI sees 1" in done.stderr


def test_variables_alone(tmp_path: Path) -> None:
    """As a script that starts its ranks itself would set them."""
    where = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29612"}
    with started([sys.executable, *SCRIPT], tmp_path, **where, RANK="1") as other:
        done = run([sys.executable, *SCRIPT], tmp_path, **where, RANK="0")
        assert done.returncode == 0, done.stderr
        assert other.wait(60) == 0
    assert {one["launcher"] for one in results(tmp_path)} == {"env"}
