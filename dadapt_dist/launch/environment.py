"""Detect the launcher, rank and world size of this process from environment variables."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

from ..errors import LaunchError


@dataclass(frozen=True)
class World:
    """Place of this process among those that were started together.

    Args:
        launcher: "torchrun", "env" (RANK and WORLD_SIZE by whoever set them, or a process group that existed), "openmpi",
            "mvapich", "mpich" (also Intel MPI), "slurm" or "python" (no launcher).
        rank: This process's number among all, from 0.
        world_size: How many processes there are.
        local_rank: Its number among those on this machine, from 0.
        local_world_size: How many processes run on this machine.
        node: Number of this machine, from 0; None where the launcher does not say.
        nodes: How many machines there are; None where the launcher does not say.
        has_local_rank: Whether the launcher tells of the ranks on one machine.

    Example:
        >>> World("python").variables()["WORLD_SIZE"]
        '1'
    """

    launcher: str
    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    local_world_size: int = 1
    node: int | None = None
    nodes: int | None = None
    has_local_rank: bool = True

    def variables(self) -> dict[str, str]:
        """Return the environment variables that torchrun would set for this process."""
        numbers = {
            "RANK": self.rank, "WORLD_SIZE": self.world_size, "LOCAL_RANK": self.local_rank,
            "LOCAL_WORLD_SIZE": self.local_world_size, "GROUP_RANK": self.node, "GROUP_WORLD_SIZE": self.nodes,
        }  # fmt: skip
        return {name: str(number) for name, number in numbers.items() if number is not None}


@dataclass(frozen=True)
class Family:
    """Names of one launcher's variables; "": it has none."""

    rank: str
    world_size: str
    local_rank: str
    local_world_size: str
    node: str = ""
    nodes: str = ""


FAMILIES = {
    "openmpi": Family(*(f"OMPI_COMM_WORLD_{name}" for name in ("RANK", "SIZE", "LOCAL_RANK", "LOCAL_SIZE"))),
    "mvapich": Family(*(f"MV2_COMM_WORLD_{name}" for name in ("RANK", "SIZE", "LOCAL_RANK", "LOCAL_SIZE"))),
    "mpich": Family("PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", "MPI_LOCALNRANKS"),
    # SLURM_STEP_*, which srun alone sets: a batch script itself has SLURM_NTASKS=N and SLURM_PROCID=0.
    "slurm": Family(
        "SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID", "", "SLURM_NODEID", "SLURM_STEP_NUM_NODES"
    ),
}
"""In this order: an MPI step inside a Slurm job has Slurm's variables too."""
TORCHRUN = Family("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "GROUP_WORLD_SIZE")


def detect(env: Mapping[str, str]) -> World:
    """Return the place of this process. RANK and WORLD_SIZE come first, then MPI's variables, then those of a Slurm step.

    What RANK and WORLD_SIZE leave out, such as LOCAL_RANK, comes from MPI or Slurm where these agree with them. A launcher
    that mpirun or srun started once on each machine is no disagreement.

    Args:
        env: Environment variables, such as `os.environ`.

    Raises:
        LaunchError: A variable is missing or no number, the rank is not below the size, or RANK and an MPI or Slurm launcher
            disagree.

    Example:
        >>> detect({"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}).rank
        1
    """
    outer = _outer(env)
    given = [name for name in ("RANK", "WORLD_SIZE") if name in env]
    if not given:
        return outer or World("python")
    if outer is not None and len(given) == 1:  # a batch script sets WORLD_SIZE, and srun does the rest
        if not _agrees(env, given[0], outer):
            raise _disagreement(env, given, outer)
        return outer
    torchrun = "TORCHELASTIC_RUN_ID" in env
    world = _checked("torchrun" if torchrun else "env", env, TORCHRUN)
    if outer is None or torchrun or _started_one_of(outer, world):
        return world
    if not all(_agrees(env, name, outer) for name in given):
        raise _disagreement(env, given, outer)
    return world if world.has_local_rank else replace(outer, launcher="env")


def _agrees(env: Mapping[str, str], name: str, outer: World) -> bool:
    return _number(env, name) == (outer.rank if name == "RANK" else outer.world_size)


def _started_one_of(outer: World, world: World) -> bool:
    """Return whether mpirun or srun started one launcher a machine, and this process is one of that launcher's."""
    alone = outer.nodes == outer.world_size or (outer.nodes is None and outer.local_world_size == 1)
    return alone and outer.has_local_rank and world.world_size > outer.world_size


def _disagreement(env: Mapping[str, str], given: list[str], outer: World) -> LaunchError:
    family = FAMILIES[outer.launcher]
    return LaunchError(
        f"{' of '.join(f'{name}={env[name]}' for name in given)} and {family.rank}={outer.rank} of "
        f"{family.world_size}={outer.world_size} disagree: two launchers speak of this process. Unset {' and '.join(given)} "
        f"to follow {outer.launcher}, or start the script with torchrun on each machine."
    )


def _outer(env: Mapping[str, str]) -> World | None:
    """Return the place that an MPI or Slurm launcher gives, or None if it started this process alone."""
    found = [world for name, family in FAMILIES.items() if (world := _of_family(name, family, env)) is not None]
    if not found:
        return None
    first, last = found[0], found[-1]
    # srun --mpi=pmi2 sets MPICH's variables beside its own, and no local rank.
    is_srun = (first.launcher, last.launcher) == ("mpich", "slurm")
    return last if is_srun and (first.rank, first.world_size) == (last.rank, last.world_size) else first


def _of_family(name: str, family: Family, env: Mapping[str, str]) -> World | None:
    if family.rank not in env or family.world_size not in env or _number(env, family.world_size) < 2:
        return None
    world = _checked(name, env, family)
    return _on_slurm(world, env) if name == "slurm" else world


def _checked(launcher: str, env: Mapping[str, str], family: Family) -> World:
    rank, size = _number(env, family.rank), _number(env, family.world_size)
    if not 0 <= rank < size:
        raise LaunchError(f"{family.rank}={rank} must be from 0 to {family.world_size} - 1 = {size - 1}")
    local = _number(env, family.local_rank) if family.local_rank in env else 0
    sizes = [name for name in (family.local_world_size, "LOCAL_SIZE") if name in env]  # the latter by DeepSpeed
    local_size = _number(env, sizes[0]) if sizes else local + 1
    node, nodes = (_number(env, name) if name in env else None for name in (family.node, family.nodes))
    return World(launcher, rank, size, local, local_size, node, nodes, family.local_rank in env or size == 1)


def _number(env: Mapping[str, str], name: str) -> int:
    if name not in env:
        raise LaunchError(
            f"{name} is not set, but other variables of its launcher are. Start the script with torchrun, mpirun or srun, "
            "which set all of them, or set RANK, WORLD_SIZE, LOCAL_RANK, LOCAL_WORLD_SIZE, MASTER_ADDR and MASTER_PORT, or "
            "unset those that are left from elsewhere."
        )
    try:
        return int(env[name])
    except ValueError:
        raise LaunchError(f"{name}={env[name]} must be a whole number") from None


def port_in(env: Mapping[str, str]) -> int:
    """Return MASTER_PORT. Raises LaunchError if it is not set or out of range."""
    port = _number(env, "MASTER_PORT")
    if not 0 < port < 1 << 16:
        raise LaunchError(f"MASTER_PORT={port} must be from 1 to 65535")
    return port


def _on_slurm(world: World, env: Mapping[str, str]) -> World:
    """Add the number of tasks on this node, parsed from text such as 2(x3),1: three nodes with two tasks, one with one."""
    parts = re.findall(r"(\d+)(?:\(x(\d+)\))?", env.get("SLURM_STEP_TASKS_PER_NODE", ""))
    counts = [int(count) for count, times in parts for _ in range(int(times or 1))]
    if world.node is None or world.node >= len(counts):
        return world
    return replace(world, local_world_size=counts[world.node])


def first_host(nodes: str) -> str:
    """Return the first host of a Slurm node list: gpu[03-07,12],login1 -> gpu03."""
    first = re.match(r"(\[[^\]]*\]?|[^,\[])*", nodes)
    return re.sub(r"\[([^],-]*)[^]]*\]?", r"\1", first[0] if first else "")
