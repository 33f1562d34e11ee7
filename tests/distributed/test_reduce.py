"""Check that the single reduce of a step is the same on every rank, runs one at a time, and never blocks the step."""

import gc
from typing import Any
from unittest.mock import patch

import pytest
import torch
import torch.distributed as dist
from torch.distributed.tensor.debug import CommDebugMode

import dadapt_dist as dd
from dadapt_dist.comm import async_all_reduce, communicator
from dadapt_dist.comm.async_all_reduce import Reduce
from dadapt_dist.comm.communicator import ShardLayout
from dadapt_dist.tools.bench.emulated_network import Network, why_not
from tests.helpers.pool import WorkerPool


def add_up(limit: int) -> tuple[list[float], list[str]]:
    """Sums that round differently in every order; with all_to_all up to `limit` ranks."""
    usual, communicator.ONE_ROUND_RANKS = communicator.ONE_ROUND_RANKS, limit
    generator = torch.Generator().manual_seed(dist.get_rank())
    sums = torch.randn(50, generator=generator, dtype=torch.float64) * 10.0 ** torch.arange(50, dtype=torch.float64)
    try:
        with CommDebugMode() as communication:
            work = ShardLayout().all_reduce(sums)
            work.wait()
    finally:
        communicator.ONE_ROUND_RANKS = usual
    assert work.is_completed()
    return sums.tolist(), [str(op).split(".")[-1] for op in communication.get_comm_counts()]


@pytest.mark.parametrize("ranks", [2, 4])
def test_all_ranks_get_the_same_bits_whichever_way(pools: Any, ranks: int) -> None:
    one_round, ring = (pools(ranks).run(add_up, limit) for limit in (8, 0))
    assert one_round[0][1] == ["alltoall_base_"]
    assert ring[0][1] == ["allreduce_"]
    for found in (one_round, ring):
        assert all(sums == found[0][0] for sums, _ in found)
    parts = [torch.randn(50, generator=torch.Generator().manual_seed(r), dtype=torch.float64) for r in range(ranks)]
    right = sum(parts) * 10.0 ** torch.arange(50, dtype=torch.float64)
    assert one_round[0][0] == pytest.approx(right.tolist(), rel=1e-12)


def waits() -> tuple[int, int, float]:
    """How often the reduce of a step was waited for inside the step, and before the next d was read."""
    original, waited = communicator.OneRound.wait, [0]

    def wait(work: Any) -> None:
        waited[0] += 1
        original(work)

    communicator.OneRound.wait = wait  # type: ignore[method-assign]
    try:
        p = torch.nn.Parameter(torch.ones(4) * 2)
        optimizer = dd.Prodigy([("p", p)])
        p.grad = torch.ones(4)
        optimizer.step()  # places the parameters
        optimizer.step_size._finish()
        waited[0] = 0
        optimizer.step()
        inside = waited[0]
        assert optimizer.d > 0
        return inside, waited[0], optimizer.d
    finally:
        communicator.OneRound.wait = original  # type: ignore[method-assign]


def test_a_step_does_not_wait_for_its_reduce(pool2: WorkerPool) -> None:
    assert {(inside, read) for inside, read, _ in pool2.run(waits)} == {(0, 1)}


def naps_at_exit() -> list[float]:
    """How long a process pauses at its end whose optimizer has gone out of scope before."""

    def train() -> None:
        p = torch.nn.Parameter(torch.ones(3))
        optimizer = dd.Prodigy([p])
        p.grad = torch.ones(3)
        optimizer.step()

    async_all_reduce._started[0] = False
    train()
    gc.collect()
    naps: list[float] = []
    with patch.object(async_all_reduce.time, "sleep", naps.append):
        async_all_reduce._drain_all()
    return naps


def test_a_process_pauses_at_its_end_also_without_its_optimizer(pool2: WorkerPool) -> None:
    """gloo's threads may still hold the tensors of the last reduce, and abort a process that ends then."""
    for naps in pool2.run(naps_at_exit):
        assert async_all_reduce.PAUSE_AT_EXIT in naps


def test_two_reduces_cannot_be_under_way() -> None:
    reduce = Reduce(ShardLayout())
    reduce.begin()
    reduce.launch(torch.ones(3, dtype=torch.float64))
    with pytest.raises(AssertionError, match="were not taken"):
        reduce.launch(torch.ones(3, dtype=torch.float64))
    with pytest.raises(AssertionError, match="were not taken"):
        reduce.put(torch.ones(3, dtype=torch.float64))


@pytest.mark.skipif(why_not() is not None, reason=f"no network can be emulated: {why_not()}")
def test_a_network_with_latency_hides_behind_the_next_step() -> None:
    """A count of milliseconds, but far apart: 40 ms of latency against 60 ms steps; only the blocking way shows it."""
    from dadapt_dist.tools.bench.overlap import measure

    report = measure([2], [20.0], 60.0, 6, 3)
    added = {row["mode"]: row["added"] for row in report.rows}
    assert added["step"] > 30
    assert added["next_step"] < added["step"] / 2


@pytest.mark.skipif(why_not() is not None, reason=f"no network can be emulated: {why_not()}")
def test_emulated_hosts_reach_each_other_and_are_gone_afterwards() -> None:
    import subprocess

    with Network(2, 0.001) as network:
        holders = [holder.pid for holder in network._holders]
        line = [*network.inside(0), "sh", "-c", f"ip -o addr show dev eth0 | grep -c {network.addresses[0]}"]
        assert subprocess.run(line, capture_output=True, text=True, check=True).stdout.strip() == "1"
    assert not any(
        subprocess.run(["ps", "-p", str(pid)], capture_output=True, check=False).returncode == 0 for pid in holders
    )
