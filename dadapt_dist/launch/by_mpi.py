"""Rendezvous of processes started by mpirun: MPI itself tells every rank where rank 0 listens."""

import logging
import socket
import sys
import time
from collections.abc import Callable, MutableMapping
from dataclasses import replace
from datetime import timedelta
from types import TracebackType
from typing import Any

import torch.distributed as dist

from ..errors import LaunchError
from .environment import World, port_in
from .network import interfaces, is_loopback, reaches

logger = logging.getLogger(__name__)

LAUNCHERS = ("openmpi", "mvapich", "mpich")


def meet(world: World, env: MutableMapping[str, str], timeout: timedelta) -> tuple[World, Any]:
    """Return the world as MPI knows it and a store that all ranks have joined; set MASTER_ADDR and MASTER_PORT.

    Rank 0 opens the store on a port that is free, and every rank tries its addresses: nothing is guessed. Raises LaunchError
    without mpi4py or an MPI, when MPI sees another number of processes than the launcher started, or when no address of
    rank 0 reaches all.
    """
    mpi = load(
        f", or set MASTER_ADDR and MASTER_PORT, which {world.launcher} does not tell its {world.world_size} processes: an "
        "address of rank 0's machine and a free port there"
    )
    check_size(mpi, world)
    comm = mpi.COMM_WORLD
    node = comm.Split_type(mpi.COMM_TYPE_SHARED)
    leads = comm.allgather(node.bcast(comm.rank))
    leaders = sorted(set(leads))
    world = replace(
        world,
        rank=comm.rank, world_size=comm.size, local_rank=node.rank, local_world_size=node.size,
        node=leaders.index(leads[comm.rank]), nodes=len(leaders), has_local_rank=True,
    )  # fmt: skip
    return world, _store(comm, mpi, world, env, timeout)


def check_size(mpi: Any, world: World) -> None:
    """Raise LaunchError if the launcher started more processes than MPI sees: each would train alone."""
    size = mpi.COMM_WORLD.size
    if world.launcher not in ("python", *LAUNCHERS) and size != world.world_size:
        raise LaunchError(
            f"{world.launcher} started {world.world_size} processes and MPI sees {size}: start them with the mpiexec of your MPI "
            "(or srun --mpi=...), or use torch.distributed, which this launcher is for"
        )
    if size != world.world_size and world.launcher != "python":
        library = mpi.Get_library_version().splitlines()[0].strip("\x00 ")
        raise LaunchError(
            f"the launcher ({world.launcher}) started {world.world_size} processes and MPI sees {size}: mpiexec and the MPI "
            f"that mpi4py has loaded ({library[:60]}) are not the same. Use the mpiexec of that MPI (for the mpich package it "
            "lies beside python), or install mpi4py for this one."
        )


def load(otherwise: str = "") -> Any:
    """Import mpi4py's MPI. Raises LaunchError if mpi4py or an MPI library is missing; `otherwise` names an alternative."""
    try:
        from mpi4py import MPI
    except (ImportError, RuntimeError) as error:  # RuntimeError: mpi4py is there, the MPI library is not
        cure = "pip install mpich" if isinstance(error, RuntimeError) else "pip install 'dadapt-dist[mpi]'"
        raise LaunchError(
            f"mpi4py and an MPI are needed ({error}): {cure}, or load your cluster's MPI{otherwise}"
        ) from error
    return MPI


def abort_all_on_error() -> None:
    """Install a `sys.excepthook` that aborts all ranks if one ends by an exception; the others would wait in MPI_Finalize.

    Call it after torch.distributed has started, whose own hook delays the traceback until the hook it found has returned.
    """
    from mpi4py import MPI

    before: Callable[..., Any] = sys.excepthook

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        before(kind, error, trace)
        sys.stderr.flush()
        time.sleep(0.5)  # for the launcher to pass on what was said: it stops listening at once
        MPI.COMM_WORLD.Abort(1)

    sys.excepthook = hook


def _store(comm: Any, mpi: Any, world: World, env: MutableMapping[str, str], timeout: timedelta) -> Any:
    """Open the store on rank 0 and join it on all ranks; an error on rank 0 is broadcast, since MPI has no timeout."""
    store: Any = None
    offer: tuple[list[str], int] | str = ""
    if world.rank == 0:
        try:
            store, offer = _offer(world, env, timeout)
        except Exception as error:  # noqa: BLE001 - whatever it is, the others must hear of it
            offer = " ".join(str(error).split())
    offer = comm.bcast(offer)
    if isinstance(offer, str):
        raise LaunchError(
            f"rank {world.rank}: rank 0 cannot open a port for the ranks to meet: {offer}. Set MASTER_PORT to a free one, or "
            "unset it for any"
        )
    addresses, port = offer
    reached = sum(1 << place for place, address in enumerate(addresses) if reaches(address, port))
    by_all = comm.allreduce(reached, mpi.BAND)
    if not by_all:
        raise LaunchError(
            f"rank {world.rank}: no address of rank 0 ({', '.join(addresses)}, port {port}) reaches it from every rank: set "
            "MASTER_ADDR to one that does, and MASTER_PORT if a firewall lets only some ports through"
        )
    address = addresses[(by_all & -by_all).bit_length() - 1]
    env.update(MASTER_ADDR=address, MASTER_PORT=str(port))
    logger.info("rank %d of %d meets the others at %s:%d", world.rank, world.world_size, address, port)
    return store or dist.TCPStore(address, port, world.world_size, False, timeout, wait_for_workers=False)


def _offer(world: World, env: MutableMapping[str, str], timeout: timedelta) -> tuple[Any, tuple[list[str], int]]:
    """Open rank 0's store; return it with the addresses and the port at which it may be reached."""
    port = port_in(env) if "MASTER_PORT" in env else 0
    store = dist.TCPStore("0.0.0.0", port, world.world_size, True, timeout, wait_for_workers=False)
    given = [env["MASTER_ADDR"]] if "MASTER_ADDR" in env else []
    loopback = ["127.0.0.1"] if world.nodes == 1 else []
    own = [address for address in interfaces() if not is_loopback(address)]
    return store, ([*given, *loopback, *own, socket.gethostname()], store.port)
