"""Start torch.distributed from one script under any launcher: `dadapt_dist.launch.init()`.

    from dadapt_dist import launch

    world = launch.init()

works under python, torchrun, mpirun, srun and the launchers of DeepSpeed and Accelerate.
"""

import os
from collections.abc import Mapping, MutableMapping
from dataclasses import replace
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from ..errors import LaunchError
from . import by_mpi
from .environment import World, detect, first_host, port_in
from .network import name_interface, stay_inside

__all__ = ["LaunchError", "World", "detect", "init"]


def init(backend: str | None = None, timeout: timedelta = timedelta(minutes=10)) -> World:
    """Start torch.distributed's default process group and return this process's place in it.

    The launcher is recognised from the environment. Afterwards the variables that torchrun sets are set: RANK, WORLD_SIZE,
    LOCAL_RANK, LOCAL_WORLD_SIZE, MASTER_ADDR and MASTER_PORT, plus GROUP_RANK and GROUP_WORLD_SIZE where they are known and,
    on several machines, GLOO_SOCKET_IFNAME unless it was set. On a machine with GPUs the process selects the GPU of its local
    rank. A single process uses an in-memory store and gloo on the loopback interface, so no other machine can connect. If a
    process group exists already, nothing is started.

    Args:
        backend: Backend of torch.distributed. Default: gloo, and nccl for CUDA tensors where there is a GPU.
        timeout: Time limit for the start and for every collective.

    Returns:
        The rank, world size and launcher of this process.

    Raises:
        LaunchError: A variable is missing or wrong, two launchers disagree, MPI is missing or is not the launcher's, the GPU
            of this rank is unknown, or the ranks did not meet within the timeout. The message is one line.

    Example:
        >>> from dadapt_dist import launch
        >>> world = launch.init()  # doctest: +SKIP
        >>> world.rank, world.world_size  # doctest: +SKIP
        (0, 1)
    """
    env = os.environ
    if dist.is_initialized():
        return _existing(env)
    world = detect(env)
    world, store = _meet(world, env, timeout)
    env.update(world.variables())
    if world.nodes != 1 and world.world_size > world.local_world_size:
        name_interface(env)
    if torch.cuda.is_available():
        torch.cuda.set_device(_own_gpu(world, torch.cuda.device_count()))
    backend = backend or ("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
    _start(world, backend, timeout, store)
    if world.launcher in by_mpi.LAUNCHERS and store is not None:
        by_mpi.abort_all_on_error()
    return world


def _existing(env: Mapping[str, str]) -> World:
    """Describe this process in a process group that exists already."""
    rank, size = dist.get_rank(), dist.get_world_size()
    try:
        world = detect(env)
    except LaunchError:
        world = World("env", has_local_rank=False)
    if (world.rank, world.world_size) == (rank, size):
        return world
    return replace(World("env", rank, size), has_local_rank=size == 1)


def _own_gpu(world: World, count: int) -> int:
    if count > 1 and world.world_size > 1 and not world.has_local_rank:
        raise LaunchError(
            f"LOCAL_RANK is not set, and there are {count} GPUs: rank {world.rank} cannot tell which of them is its own. Set it, "
            "counting from 0 on each machine, or start the script with torchrun, mpirun or srun"
        )
    return world.local_rank % count


def _start(world: World, backend: str, timeout: timedelta, store: Any) -> None:
    where = {} if store is None else {"store": store, "rank": world.rank, "world_size": world.world_size}
    place = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
    try:
        dist.init_process_group(backend, timeout=timeout, **where)
    except dist.DistError as error:
        raise LaunchError(
            f"rank {world.rank}: the {world.world_size} ranks did not meet at {place} within {timeout.total_seconds():g} s. Was "
            "every rank started, does the address reach rank 0's machine from all others, and is the port free and open? "
            f"({str(error).splitlines()[0]})"
        ) from error
    except (RuntimeError, ValueError) as error:
        interface = os.environ.get("GLOO_SOCKET_IFNAME", "not set")
        raise LaunchError(
            f"rank {world.rank}: {backend} did not start at {place}, with GLOO_SOCKET_IFNAME {interface}: "
            f"{str(error).splitlines()[0]}"
        ) from error


def _meet(world: World, env: MutableMapping[str, str], timeout: timedelta) -> tuple[World, Any]:
    """Choose where the ranks meet and set MASTER_ADDR and MASTER_PORT; the store is None where torch makes it from these."""
    given = "MASTER_ADDR" in env and "MASTER_PORT" in env
    if world.launcher == "python" or (
        world.launcher == "env" and world.world_size == 1
    ):  # whose variables may be a parent's
        env.update(MASTER_ADDR="127.0.0.1", MASTER_PORT="0")  # 0: any that is free, should somebody start a group anew
        stay_inside(env)
        return world, dist.HashStore()  # a TCPStore listens on every interface, and lets anybody write
    if world.launcher in by_mpi.LAUNCHERS and not given:
        return by_mpi.meet(world, env, timeout)
    if world.launcher == "slurm":
        _place_on_slurm(world, env)
    missing = [name for name in ("MASTER_ADDR", "MASTER_PORT") if name not in env]
    if missing:
        raise LaunchError(
            f"{' and '.join(missing)} must be set beside RANK={world.rank} and WORLD_SIZE={world.world_size}: an address of "
            "rank 0's machine and a free port there. torchrun, accelerate launch and deepspeed set them."
        )
    port_in(env)
    return world, _after_a_restart(world, env, timeout)


def _place_on_slurm(world: World, env: MutableMapping[str, str]) -> None:
    """Use the first node of the Slurm step as rank 0's, and a port derived from the job and step numbers."""
    nodes = env.get("SLURM_STEP_NODELIST", "")
    if not nodes and "MASTER_ADDR" not in env:
        raise LaunchError("SLURM_STEP_NODELIST is not set: start the script with srun, or set MASTER_ADDR")
    env.setdefault("MASTER_ADDR", "127.0.0.1" if world.nodes == 1 else first_host(nodes))
    job, step = (_whole(env.get(name, "")) for name in ("SLURM_JOB_ID", "SLURM_STEP_ID"))
    # Below the ports that systems give to outgoing connections. Steps of jobs side by side do not meet at one.
    env.setdefault("MASTER_PORT", str(12000 + (job * 7919 + step) % 20000))


def _whole(text: str) -> int:
    return int(text) if text.isdigit() else 0


def _after_a_restart(world: World, env: MutableMapping[str, str], timeout: timedelta) -> Any:
    """Return a store for this attempt after torchrun restarted the ranks; None for the first attempt.

    torchrun's own store still holds the addresses of the attempt that ended, so each attempt uses a prefix of its own. With
    one torchrun, all ranks agree on the number of attempts; with several, set TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1.
    """
    attempt = env.get("TORCHELASTIC_RESTART_COUNT", "0")
    shared = env.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    if not shared or attempt == "0" or world.nodes != 1:
        return None
    store = dist.TCPStore(env["MASTER_ADDR"], port_in(env), is_master=False, timeout=timeout)
    return dist.PrefixStore(f"attempt {attempt}", store)
