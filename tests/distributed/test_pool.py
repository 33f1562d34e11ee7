"""Check that the worker pool reports every failure under the right name, and starts clean afterwards."""

import os
import time
from collections.abc import Iterator

import pytest
import torch
import torch.distributed as dist

from tests.helpers import pool as pools
from tests.helpers.pool import RemoteTraceback, WorkerFailed, WorkerPool
from tests.helpers.worker import LOOPBACK


@pytest.fixture(scope="module")
def pool() -> Iterator[WorkerPool]:
    """A pool of this module's own: these tests break it on purpose."""
    pool = WorkerPool(2)
    yield pool
    pool.close()


class NotPicklableError(Exception):
    def __init__(self, first: str, second: str) -> None:
        super().__init__(first + second)


def rank_and_sum(start: torch.Tensor, *, factor: int) -> tuple[int, torch.Tensor]:
    value = start.mul_(factor * (dist.get_rank() + 1))
    dist.all_reduce(value)
    return dist.get_rank(), value


def environment() -> dict[str, str | int]:
    names = ("OMP_NUM_THREADS", "RANK", "WORLD_SIZE", "GLOO_SOCKET_IFNAME")
    return {**{name: os.environ[name] for name in names}, "threads": torch.get_num_threads()}


def random_number() -> float:
    return torch.rand(()).item()


def process_id() -> int:
    return os.getpid()


def raise_on(rank: int, kind: str) -> None:
    if dist.get_rank() == rank:
        if kind == "value":
            raise ValueError(f"bad value on rank {rank}")
        if kind == "not picklable":
            raise NotPicklableError("two ", "arguments")
        if kind == "exit":
            raise SystemExit(3)
    dist.barrier()


def raise_everywhere() -> None:
    raise ValueError(f"rank {dist.get_rank()} speaking")


def die_on(rank: int) -> None:
    if dist.get_rank() == rank:
        os._exit(7)
    dist.barrier()


def hang_on(rank: int) -> None:
    if dist.get_rank() == rank:
        time.sleep(1000)


def skip_a_collective_on(rank: int) -> None:
    if dist.get_rank() != rank:
        dist.all_reduce(torch.ones(1))


def return_a_group() -> object:
    return dist.group.WORLD


def works(pool: WorkerPool) -> bool:
    return [rank for rank, _ in pool.run(rank_and_sum, torch.ones(1), factor=1)] == list(range(pool.world_size))


def test_results_come_back_in_rank_order_and_arguments_stay_unchanged(pool: WorkerPool) -> None:
    start = torch.ones(3)
    results = pool.run(rank_and_sum, start, factor=2)
    assert [rank for rank, _ in results] == [0, 1]
    assert all(torch.equal(value, torch.full((3,), 6.0)) for _, value in results)
    assert torch.equal(start, torch.ones(3))


def test_workers_run_one_thread_on_the_loopback_interface(pool: WorkerPool) -> None:
    for rank, seen in enumerate(pool.run(environment)):
        assert seen == {
            "OMP_NUM_THREADS": "1",
            "RANK": str(rank),
            "WORLD_SIZE": "2",
            "GLOO_SOCKET_IFNAME": LOOPBACK,
            "threads": 1,
        }


def test_every_call_starts_from_the_same_random_numbers(pool: WorkerPool) -> None:
    assert len({*pool.run(random_number), *pool.run(random_number)}) == 1


def test_processes_are_reused_between_calls_and_replaced_after_their_life(
    pool: WorkerPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = pool.run(process_id)
    assert pool.run(process_id) == first == pool.pids
    monkeypatch.setattr(pools, "CALLS_PER_LIFE", 1)
    assert set(pool.run(process_id)).isdisjoint(first)


@pytest.mark.parametrize("rank", [0, 1])
def test_an_exception_keeps_its_type_and_tells_its_rank_and_traceback(pool: WorkerPool, rank: int) -> None:
    with pytest.raises(ValueError, match=f"bad value on rank {rank}") as caught:
        pool.run(raise_on, rank, "value")
    cause = caught.value.__cause__
    assert isinstance(cause, RemoteTraceback)
    assert f"rank {rank} of 2: Traceback" in str(cause)
    assert "in raise_on" in str(cause)
    assert works(pool)


def test_exceptions_of_all_ranks_are_shown(pool: WorkerPool) -> None:
    with pytest.raises(ValueError, match=r"rank \d speaking") as caught:
        pool.run(raise_everywhere)
    assert all(f"ValueError: rank {rank} speaking" in str(caught.value.__cause__) for rank in (0, 1))


@pytest.mark.parametrize(("kind", "text"), [("not picklable", "two arguments"), ("exit", "SystemExit: 3")])
def test_an_exception_that_cannot_travel_is_told_as_text(pool: WorkerPool, kind: str, text: str) -> None:
    with pytest.raises(WorkerFailed, match=rf"(?s)rank 1 of 2: Traceback.*{text}"):
        pool.run(raise_on, 1, kind)
    assert works(pool)


def test_a_dead_rank_is_reported_with_its_exit_code_not_as_its_peers_lost_connection(pool: WorkerPool) -> None:
    with pytest.raises(WorkerFailed, match="rank 0 of 2: died with exit code 7"):
        pool.run(die_on, 0)
    assert works(pool)


def test_a_rank_killed_between_calls_is_reported_and_replaced(pool: WorkerPool) -> None:
    assert works(pool)
    os.kill(pool.run(process_id)[1], 9)
    with pytest.raises(WorkerFailed, match="rank 1 of 2: died with exit code -9"):
        pool.run(rank_and_sum, torch.ones(1), factor=1)
    assert works(pool)


def test_a_silent_rank_is_named_with_the_place_where_it_stands(pool: WorkerPool) -> None:
    began = time.monotonic()
    with pytest.raises(WorkerFailed, match=r"(?s)^rank 1 of 2 did not answer in 1 s.*in hang_on"):
        pool.run(hang_on, 1, timeout=1)
    assert time.monotonic() - began < 20
    assert works(pool)


def test_a_skipped_collective_is_reported_on_the_rank_that_waits_for_it(pool: WorkerPool) -> None:
    with pytest.raises(WorkerFailed, match=r"(?s)^rank 0 of 2 did not answer in 1 s.*in skip_a_collective_on"):
        pool.run(skip_a_collective_on, 1, timeout=1)
    assert works(pool)


def test_a_result_that_cannot_travel_is_an_error_of_its_rank(pool: WorkerPool) -> None:
    with pytest.raises((WorkerFailed, TypeError, AttributeError, RuntimeError)):
        pool.run(return_a_group)
    assert works(pool)


def test_a_closed_pool_leaves_no_process_and_can_start_again() -> None:
    pool = WorkerPool(2)
    assert works(pool)
    pids = pool.pids
    pool.close()
    assert pool.pids == []
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid or 0, 0)
    assert works(pool)
    pool.close()
