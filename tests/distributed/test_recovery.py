"""Check that training continues in the same processes after ranks were lost or diverged, and no sums vanish silently."""

import copy
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn

import dadapt_dist as dd
from dadapt_dist.comm.communicator import OneRound
from dadapt_dist.errors import ReduceError
from tests.helpers.layout_runs import of_oracle
from tests.helpers.oracles import ORACLES
from tests.helpers.placed import tensor

STEPS = 12
AUTO: dict[str, Any] = {"recipe": "auto", "rms_cap": 5e-3, "total_steps": 20}


def expected(**options: Any) -> list[float]:
    """d after each step, of one process."""
    oracle, ds = ORACLES["prodigy"]([tensor("w", 6)], **of_oracle({"d0": 1e-3, **options})), []
    for step in range(STEPS):
        oracle.step([tensor("w", 6, step=step)])
        ds.append(oracle.d)
    assert ds[-1] > ds[4] > 1e-3
    return ds


class Run:
    """A parameter and its optimizer on this rank."""

    def __init__(self, **options: Any) -> None:
        self.p = nn.Parameter(tensor("w", 6))
        self.optimizer = dd.Prodigy([self.p], d0=1e-3, **options)
        self.ds: dict[int, float] = {}

    def step(self, step: int, *, read: bool = True) -> None:
        self.p.grad = tensor("w", 6, step=step)
        self.optimizer.step()
        if read:
            self.ds[step] = self.optimizer.d

    def save(self) -> Any:
        return copy.deepcopy((self.optimizer.state_dict(), self.p.detach()))

    def load(self, saved: Any) -> None:
        with torch.no_grad():
            self.p.copy_(saved[1])
        self.optimizer.load_state_dict(saved[0])


def new_group(folder: Path, *, alone: bool = False) -> None:
    """torch.distributed initialised anew, or not at all."""
    rank, world = dist.get_rank(), dist.get_world_size()
    dist.barrier()
    dist.destroy_process_group()
    if not alone:
        store = dist.FileStore(str(folder / "store"), world)
        dist.init_process_group("gloo", store=store, rank=rank, world_size=world, timeout=timedelta(seconds=60))


@pytest.fixture
def fresh(pools: Any) -> Iterator[Any]:
    """Two ranks that nobody uses afterwards."""
    yield pools(2)
    pools(2).close()


def group_made_anew(folder: Path, *, alone: bool, **options: Any) -> dict[int, float]:
    """With a reduce under way, which belongs to the group before."""
    run = Run(**options)
    for step in range(5):
        run.step(step, read=step < 4)
    new_group(folder, alone=alone)
    for step in range(5, STEPS):
        run.step(step)
    return run.ds


@pytest.mark.parametrize("alone", [False, True], ids=["two ranks", "no group"])
@pytest.mark.parametrize("options", [{}, AUTO], ids=["prodigy", "auto"])
def test_a_process_group_made_anew_goes_on(alone: bool, options: dict[str, Any], fresh: Any, tmp_path: Path) -> None:
    """Sums that two ranks had made were counted as those of one; counters were never agreed on again."""
    right = expected(**options)
    for ds in fresh.run(group_made_anew, tmp_path, alone=alone, **options):
        assert ds == {step: pytest.approx(right[step], rel=1e-12) for step in ds}
        assert set(ds) >= {*range(5, STEPS)}


def replaced(folder: Path, *, load: bool) -> Any:
    """Rank 1 is a new process: an optimizer of its own, and a checkpoint of step 5 that all load."""
    run = Run()
    for step in range(6):
        saved = run.save() if step == 5 else None
        run.step(step)
    new_group(folder)
    if dist.get_rank() == 1:
        run = Run()
    if load:
        run.load(saved)
    try:
        for step in range(5, STEPS):
            run.step(step)
    except dd.PlacementError as error:
        return str(error)
    return run.ds[STEPS - 1]


def test_a_rank_is_replaced_and_all_load_a_checkpoint(fresh: Any, tmp_path: Path) -> None:
    assert fresh.run(replaced, tmp_path, load=True) == [pytest.approx(expected()[-1], rel=1e-12)] * 2


def test_a_replaced_rank_that_did_not_load_is_an_error(fresh: Any, tmp_path: Path) -> None:
    """The one with d0 and the other with a d of its own would have gone on from two states."""
    for text in fresh.run(replaced, tmp_path, load=False):
        assert "Load the same checkpoint on all ranks" in text


def came_apart(**options: Any) -> float:
    """Rank 1 leaves a step out: rank 0 waits for sums that never come, and both load the last checkpoint."""
    run = Run(**options)
    for step in range(6):
        saved = run.save() if step == 5 else None
        if step < 5 or dist.get_rank() == 0:
            run.step(step, read=step < 5)
    run.load(saved)
    for step in range(5, STEPS):
        run.step(step)
    return run.ds[STEPS - 1]


@pytest.mark.parametrize("options", [{}, AUTO], ids=["prodigy", "auto"])
def test_ranks_that_came_apart_meet_again_at_a_checkpoint(options: dict[str, Any], pools: Any) -> None:
    """The sums that rank 0 had under way were waited for, to the timeout; then d was held for ever."""
    right = pytest.approx(expected(**options)[-1], rel=1e-12)
    assert pools(2).run(came_apart, **options) == [right] * 2


def lost() -> tuple[list[str], float]:
    """The sums of step 5 do not arrive."""
    run = Run()
    for step in range(6):
        saved = run.save() if step == 5 else None
        run.step(step, read=step < 5)
    texts, original = [], OneRound.wait

    def fail(work: Any) -> None:
        original(work)
        raise RuntimeError("connection closed by peer")

    OneRound.wait = fail  # type: ignore[method-assign]
    try:
        for call in (run.optimizer.state_dict, run.optimizer.state_dict, lambda: run.optimizer.d, lambda: run.step(6)):
            with pytest.raises(ReduceError) as raised:
                call()
            texts.append(str(raised.value))
            OneRound.wait = original  # type: ignore[method-assign]
    finally:
        OneRound.wait = original  # type: ignore[method-assign]
    run.load(saved)
    for step in range(5, STEPS):
        run.step(step)
    return texts, run.ds[STEPS - 1]


def test_sums_that_are_lost_stay_lost_until_a_checkpoint_is_loaded(pools: Any) -> None:
    """A second state_dict() used to succeed, without them."""
    for texts, d in pools(2).run(lost):
        assert set(texts) == {texts[0]}
        assert "the sums of step 5 did not come together (connection closed by peer)" in texts[0]
        assert "load the last checkpoint" in texts[0]
        assert d == pytest.approx(expected()[-1], rel=1e-12)


def subgroup_destroyed() -> str:
    group = dist.new_group([0, 1])
    run = Run(process_group=group)
    run.step(0)
    dist.destroy_process_group(group)
    with pytest.raises(dd.PlacementError, match="was destroyed: build the optimizer anew") as raised:
        run.step(1)
    return str(raised.value)


def test_a_process_group_that_was_destroyed_is_named(pools: Any) -> None:
    assert len(pools(2).run(subgroup_destroyed)) == 2
