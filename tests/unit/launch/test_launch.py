"""What a process learns of the ranks and of the network from its environment, and what it refuses."""

import sys
from datetime import timedelta

import pytest
import torch.distributed as dist

from dadapt_dist import launch
from dadapt_dist.launch import LaunchError, World, detect, network
from dadapt_dist.launch.environment import first_host, port_in

# ---------------------------------------------------------------- from the environment alone

MPICH = {"PMI_RANK": "3", "PMI_SIZE": "4", "MPI_LOCALRANKID": "1", "MPI_LOCALNRANKS": "2"}
SLURM = {
    "SLURM_PROCID": "5", "SLURM_STEP_NUM_TASKS": "7", "SLURM_LOCALID": "1", "SLURM_NODEID": "2", "SLURM_STEP_NUM_NODES": "4",
    "SLURM_STEP_TASKS_PER_NODE": "2(x3),1", "SLURM_NTASKS": "7",
}  # fmt: skip
ONE_A_NODE = {
    "SLURM_PROCID": "1", "SLURM_STEP_NUM_TASKS": "2", "SLURM_LOCALID": "0", "SLURM_NODEID": "1", "SLURM_STEP_NUM_NODES": "2",
    "SLURM_STEP_TASKS_PER_NODE": "1(x2)",
}  # fmt: skip
OPENMPI = {f"OMPI_COMM_WORLD_{name}": value for name, value in (("RANK", "1"), ("SIZE", "2"), ("LOCAL_RANK", "1"))}
TORCH = {
    "RANK": "6",
    "WORLD_SIZE": "8",
    "LOCAL_RANK": "2",
    "LOCAL_WORLD_SIZE": "4",
    "GROUP_RANK": "1",
    "GROUP_WORLD_SIZE": "2",
}
ELASTIC = {**TORCH, "TORCHELASTIC_RUN_ID": "x"}


@pytest.mark.parametrize(
    ("env", "world"),
    [
        ({}, World("python")),
        (TORCH, World("env", 6, 8, 2, 4, 1, 2)),
        (ELASTIC, World("torchrun", 6, 8, 2, 4, 1, 2)),
        (
            {"RANK": "1", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "LOCAL_SIZE": "2"},
            World("env", 1, 4, 1, 2),
        ),  # DeepSpeed's
        (MPICH, World("mpich", 3, 4, 1, 2)),
        (OPENMPI, World("openmpi", 1, 2, 1, 2)),
        (SLURM, World("slurm", 5, 7, 1, 2, 2, 4)),
        ({**SLURM, **MPICH}, World("mpich", 3, 4, 1, 2)),
        # A batch script, before srun: it is one process, whatever the job will start.
        ({"SLURM_NTASKS": "4", "SLURM_PROCID": "0", "SLURM_JOB_ID": "3"}, World("python")),
        # mpirun or srun has started one torchrun on each machine.
        ({**ELASTIC, **MPICH}, World("torchrun", 6, 8, 2, 4, 1, 2)),
        # What RANK and WORLD_SIZE do not say comes from the launcher that agrees with them.
        ({"RANK": "1", "WORLD_SIZE": "2"}, World("env", 1, 2, has_local_rank=False)),
        ({**MPICH, "RANK": "3", "WORLD_SIZE": "4"}, World("env", 3, 4, 1, 2)),
        ({**SLURM, "RANK": "5", "WORLD_SIZE": "7"}, World("env", 5, 7, 1, 2, 2, 4)),
        ({**SLURM, "WORLD_SIZE": "7"}, World("slurm", 5, 7, 1, 2, 2, 4)),
        # srun --mpi=pmi2 sets MPICH's variables too, but no local rank.
        ({**SLURM, "PMI_RANK": "5", "PMI_SIZE": "7"}, World("slurm", 5, 7, 1, 2, 2, 4)),
        # srun has started one launcher, other than torchrun, on each machine.
        ({**ONE_A_NODE, "RANK": "9", "WORLD_SIZE": "16", "LOCAL_RANK": "1"}, World("env", 9, 16, 1, 2)),
        # One task of srun is no job of several.
        ({**SLURM, "SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0"}, World("python")),
    ],
)
def test_who_a_process_is(env: dict[str, str], world: World) -> None:
    assert detect(env) == world


@pytest.mark.parametrize(
    ("env", "said"),
    [
        ({"RANK": "0"}, "WORLD_SIZE is not set, but other variables of its launcher are"),
        ({"WORLD_SIZE": "2"}, "RANK is not set"),
        ({"RANK": "two", "WORLD_SIZE": "2"}, "RANK=two must be a whole number"),
        ({"RANK": "2", "WORLD_SIZE": "2"}, "RANK=2 must be from 0 to WORLD_SIZE - 1 = 1"),
        ({**MPICH, "PMI_RANK": "-1"}, "PMI_RANK=-1 must be from 0 to PMI_SIZE - 1 = 3"),
        ({**MPICH, "RANK": "0", "WORLD_SIZE": "4"}, "RANK=0 of WORLD_SIZE=4 and PMI_RANK=3 of PMI_SIZE=4 disagree"),
        ({**OPENMPI, "RANK": "1", "WORLD_SIZE": "8"}, "Unset RANK and WORLD_SIZE to follow openmpi"),
        ({**SLURM, "WORLD_SIZE": "8"}, "WORLD_SIZE=8 and SLURM_PROCID=5 .* Unset WORLD_SIZE to follow slurm"),
    ],
)
def test_an_environment_that_cannot_be_right_is_an_error(env: dict[str, str], said: str) -> None:
    with pytest.raises(LaunchError, match=said):
        detect(env)


@pytest.mark.parametrize(
    ("nodes", "first"),
    [
        ("gpu7", "gpu7"), ("a,b", "a"), ("gpu[03-07,12],login1", "gpu03"), ("n[1,5]-ib,m2", "n1-ib"), ("r[2-3]n[10-12]", "r2n10"),
    ],
)  # fmt: skip
def test_the_first_host_of_a_node_list(nodes: str, first: str) -> None:
    assert first_host(nodes) == first


@pytest.mark.parametrize(
    ("port", "said"),
    [("abc", "MASTER_PORT=abc must be a whole number"), ("99999", "MASTER_PORT=99999 must be from 1 to 65535")],
)
def test_a_port_that_is_none_is_an_error(port: str, said: str) -> None:
    with pytest.raises(LaunchError, match=said):
        port_in({"MASTER_PORT": port})


def test_a_group_of_one_needs_no_port() -> None:
    """RANK=0 of WORLD_SIZE=1 may be left from a parent, whose port is taken."""
    env = {"MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "1"}
    _, store = launch._meet(World("env"), env, timedelta(seconds=5))
    assert isinstance(store, dist.HashStore)
    assert {key: env[key] for key in ("MASTER_ADDR", "MASTER_PORT")} == {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}


def test_of_several_gpus_a_rank_must_know_its_own() -> None:
    world = World("env", 3, 4, has_local_rank=False)
    with pytest.raises(LaunchError, match=r"LOCAL_RANK is not set, and there are 8 GPUs: rank 3 cannot tell"):
        launch._own_gpu(world, 8)
    assert launch._own_gpu(world, 1) == 0  # the launcher shows each process one
    assert launch._own_gpu(World("env", 9, 16, 1, 8), 8) == 1


# ---------------------------------------------------------------- the interface

ADDRESSES = {"127.0.0.1": "lo", "10.0.0.7": "eth0", "10.1.0.7": "ib0"}


@pytest.mark.parametrize(
    ("own", "addresses", "default", "chosen"),
    [
        ("10.1.0.7", ADDRESSES, "eth0", "ib0"),
        ("127.0.1.1", ADDRESSES, "eth0", "eth0"),  # rank 0's machine, which calls itself so
        ("127.0.1.1", {"10.1.0.7": "ib0"}, None, "ib0"),
        ("127.0.1.1", ADDRESSES, None, None),
        ("fd00::2", {**ADDRESSES, "fd00::2": "eth1"}, "eth0", "eth1"),
        ("192.168.0.1", ADDRESSES, "eth0", None),
        (None, ADDRESSES, "eth0", None),
    ],
)
def test_gloo_gets_the_interface_that_reaches_rank_0_or_a_warning_is_logged(
    monkeypatch: pytest.MonkeyPatch,
    library_log: pytest.LogCaptureFixture,
    own: str | None,
    addresses: dict[str, str],
    default: str | None,
    chosen: str | None,
) -> None:
    monkeypatch.setattr(network, "own_address_towards", lambda _: own)
    monkeypatch.setattr(network, "interfaces", lambda: addresses)
    monkeypatch.setattr(network, "default_interface", lambda: default)
    env = {"MASTER_ADDR": "head"}
    network.name_interface(env)
    assert env.get("GLOO_SOCKET_IFNAME") == chosen
    warned = [message for message in library_log.messages if "set GLOO_SOCKET_IFNAME" in message]
    assert len(warned) == (chosen is None)


def test_this_machines_addresses_and_default_route() -> None:
    assert network.interfaces()["127.0.0.1"] == "lo"
    assert network.own_address_towards("127.0.0.1") == "127.0.0.1"
    assert network.own_address_towards("no.such.name.invalid") is None
    assert network.default_interface() in {None, *network.interfaces().values()}


def test_mpi_without_mpi4py_says_what_to_set_instead(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mpi4py", None)
    with pytest.raises(
        LaunchError, match=r"pip install 'dadapt-dist\[mpi\]', or .* or set MASTER_ADDR and MASTER_PORT"
    ):
        launch._meet(World("mpich", 0, 2), {}, timedelta(seconds=1))


def test_variables_without_an_address_are_an_error() -> None:
    """Ranks that do not come within the time are test_doctor's."""
    with pytest.raises(LaunchError, match="MASTER_ADDR must be set beside RANK=0 and WORLD_SIZE=2"):
        launch._meet(World("env", 0, 2), {"MASTER_PORT": "29613"}, timedelta(seconds=1))
