"""A private Slurm for a test: one node, this machine, with daemons and files in a folder of the test's own."""

import getpass
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

PROGRAMS = ("srun", "sbatch", "sinfo", "slurmctld", "slurmd", "munged")
CONF = """
ClusterName=tests
SlurmctldHost={host}
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
SlurmUser={user}
SlurmdUser={user}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/pgid
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
ReturnToService=2
MpiDefault=none
JobAcctGatherType=jobacct_gather/none
NodeName={host} NodeAddr=127.0.0.1 CPUs=4 RealMemory=500 State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def why_not() -> str | None:
    """Why no Slurm can be started here; None where it can."""
    missing = [name for name in PROGRAMS if shutil.which(name) is None]
    if missing:
        return f"{', '.join(missing)} are not installed: apt install slurm-wlm munge"
    return None if os.geteuid() == 0 else "its daemons need root"


@contextmanager
def slurm(folder: Path) -> Iterator[dict[str, str]]:
    """Start it; gives the variables with which srun and sbatch find it."""
    host, ports = socket.gethostname().split(".")[0], (_free_port(), _free_port())
    for name in ("state", "spool"):
        (folder / name).mkdir()
    key = folder / "munge.key"
    key.write_bytes(os.urandom(128))
    key.chmod(0o400)
    folder.chmod(0o755)
    conf = folder / "slurm.conf"
    conf.write_text(CONF.format(host=host, ports=ports, folder=folder, user=getpass.getuser()))
    env = {"SLURM_CONF": str(conf)}
    munge = ["munged", "--foreground", "--force", f"--key-file={key}", f"--socket={folder}/munge.socket"]
    munge += [f"--{name}-file={folder}/munge.{name}" for name in ("pid", "log", "seed")]
    with ExitStack() as stack:
        for line in (munge, ["slurmctld", "-D"], ["slurmd", "-D", "-N", host]):
            stack.enter_context(_running(line, env, folder))
            time.sleep(0.3)
        _wait_until_idle(env, folder)
        yield env


def ended_as(job: str, env: dict[str, str]) -> str:
    """The state in which a job ends. sbatch --wait would look once in half a minute."""
    line, state = ["squeue", "-h", "-t", "all", "-o", "%T", "-j", job], ""
    for _ in range(200):
        state = subprocess.run(line, env=os.environ | env, capture_output=True, text=True, check=False).stdout.strip()
        if state not in ("PENDING", "CONFIGURING", "RUNNING", "COMPLETING"):
            return state
        time.sleep(0.5)
    return state


@contextmanager
def _running(line: list[str], env: dict[str, str], folder: Path) -> Iterator[None]:
    with open(folder / f"{line[0]}.out", "w") as output:
        process = subprocess.Popen(line, env=os.environ | env, stdout=output, stderr=output)
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_until_idle(env: dict[str, str], folder: Path) -> None:
    line, said = ["sinfo", "-h", "-o", "%T"], ""
    for _ in range(60):
        said = subprocess.run(line, env=os.environ | env, capture_output=True, text=True, check=False).stdout.strip()
        if said == "idle":
            return
        time.sleep(0.5)
    logs = "\n".join(f"{path.name}: {path.read_text()[-600:]}" for path in sorted(folder.glob("*.out")))
    raise RuntimeError(f"the node is {said!r} after 30 s\n{logs}")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
