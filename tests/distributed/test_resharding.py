"""Check that a checkpoint written under one layout continues under another as if uninterrupted."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed.fsdp import FullOptimStateDictConfig, FullStateDictConfig, StateDictType
from torch.distributed.fsdp import FullyShardedDataParallel as FSDP

from tests.helpers.checkpoints import (
    AFTER,
    BEFORE,
    CASES,
    MORE_LAYOUTS,
    Result,
    Training,
    build,
    fitting,
    packed,
    unpack,
)
from tests.helpers.classes import WITH_D
from tests.helpers.layouts import CPU, LAYOUTS, Job, ranks
from tests.helpers.models import Tiny
from tests.helpers.resumed import same

pytestmark = pytest.mark.filterwarnings(
    "ignore::FutureWarning", "ignore::DeprecationWarning", "ignore:torch.distributed is disabled"
)


def save(layout: str, cases: list[str], folder: str) -> list[Result]:
    """Train, save each case while its reduce is under way, and go on uninterrupted."""
    results = []
    for case in cases:
        training = Training(build(layout), case).steps(0, BEFORE, read=False)
        dcp.save(packed(training), checkpoint_id=f"{folder}/{case}", no_dist=layout == "one process")
        results.append(training.steps(BEFORE, AFTER).result())
    return results


def resume(layout: str, cases: list[str], folder: str) -> list[Result]:
    """Load each case into a new model and optimizer, and train as the saved run went on."""
    results = []
    for case in cases:
        training = Training(build(layout), case)
        checkpoint = packed(training)
        dcp.load(checkpoint, checkpoint_id=f"{folder}/{case}", no_dist=layout == "one process")
        unpack(training, checkpoint)
        results.append(training.steps(BEFORE, AFTER).result())
    return results


@pytest.fixture(scope="module")
def run_under(pools: Any) -> Callable[..., list[Any]]:
    """`run_under(fn, layout, ...)` calls `fn(layout, ...)` on all ranks of the layout and returns their results."""

    def run(fn: Callable[..., Any], layout: str, *args: Any) -> list[Any]:
        size = {**LAYOUTS, **MORE_LAYOUTS}[layout][0]
        return [fn(layout, *args)] if size == 1 else pools(size).run(fn, layout, *args)

    return run


@pytest.fixture(scope="module")
def saved(run_under: Any, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Path, dict[str, Result]]]:
    """`saved(layout)` is the folder of all cases' checkpoints under that layout and how each went on, written once."""
    made: dict[str, tuple[Path, dict[str, Result]]] = {}

    def get(layout: str) -> tuple[Path, dict[str, Result]]:
        if layout not in made:
            folder, cases = tmp_path_factory.mktemp("checkpoint"), fitting(layout)
            results = run_under(save, layout, cases, str(folder))[0]
            made[layout] = folder, dict(zip(cases, results, strict=True))
        return made[layout]

    return get


WAYS = [
    ("fsdp2, 4 ranks", "fsdp2, 4 ranks"),
    ("fsdp2, 4 ranks", "fsdp2"),
    ("fsdp2, 4 ranks", "one process"),
    ("fsdp2, 4 ranks", "hsdp"),
    ("fsdp2, 4 ranks", "tp"),
    ("fsdp2, 4 ranks", "fsdp2 x tp"),
    ("fsdp2, 4 ranks", "ddp"),
    ("fsdp2, 4 ranks", "fsdp1 orig params"),
    ("fsdp2, 4 ranks", "fsdp1 flat"),
    ("fsdp1 orig params", "fsdp1 orig params"),
    ("fsdp1 orig params", "fsdp2"),
    ("fsdp1 orig params", "one process"),
    ("fsdp1 flat", "fsdp2"),
    ("ddp", "fsdp2"),
    ("one process", "fsdp2, 4 ranks"),
]


@pytest.mark.one_in(5)
@pytest.mark.in_one_go
@pytest.mark.parametrize(("source", "target"), WAYS, ids=lambda layout: layout)
def test_a_checkpoint_goes_on_under_another_layout_as_if_nothing_had_happened(
    source: str, target: str, saved: Any, run_under: Any
) -> None:
    folder, expected = saved(source)
    cases = fitting(source, target)
    results = run_under(resume, target, cases, str(folder))

    for case, result in zip(cases, results[0], strict=True):
        want = expected[case]
        if source == target:
            assert same(result, want), case
        assert result["d"] == pytest.approx(want["d"], rel=1e-10, abs=0, nan_ok=CASES[case][0] not in WITH_D), case
        for name, old in want["params"].items():
            near = 1e-9 if case == "adam_pp" else 1e-10  # its steps multiply what is rounded
            assert (result["params"][name] - old).norm() <= near * old.norm(), (case, name)
        grows = CASES[case][0] in WITH_D
        assert not grows or want["d"][-1] > 1.05 * want["d"][0], f"{case}: d never moved, the comparison would be empty"
    assert all(same(result, results[0]) for result in results), "ranks differ"


# -------------------------------------------------------------------- FSDP1's own


def fsdp1_zero(*, orig: bool) -> Job:
    """A head of zeros, as adapters have, alone in a wrapper: on some ranks its piece is all there is."""
    model = Tiny()
    nn.init.zeros_(model.head.weight)
    options: dict[str, Any] = {"use_orig_params": orig, "device_id": CPU}
    model.blocks[0] = FSDP(model.blocks[0], **options)
    model.head = FSDP(model.head, **options)
    return Job(FSDP(model, **options), *ranks())


def fsdp1_through(case: str, *, orig: bool, sharded: bool) -> tuple[Result, Result]:
    kind = StateDictType.SHARDED_STATE_DICT if sharded else StateDictType.FULL_STATE_DICT
    full = FullStateDictConfig(offload_to_cpu=False), FullOptimStateDictConfig(offload_to_cpu=False)
    settings = () if sharded else full
    whole, other = (Training(fsdp1_zero(orig=orig), case) for _ in range(2))
    whole.steps(0, BEFORE, read=False)
    with FSDP.state_dict_type(whole.job.model, kind, *settings):
        weights = whole.job.model.state_dict()
        state = FSDP.optim_state_dict(whole.job.model, whole.optimizer)
    with FSDP.state_dict_type(other.job.model, kind, *settings):
        other.job.model.load_state_dict(weights)
        other.optimizer.load_state_dict(FSDP.optim_state_dict_to_load(other.job.model, other.optimizer, state))
    return whole.steps(BEFORE, AFTER).result(), other.steps(BEFORE, AFTER).result()


@pytest.mark.parametrize("sharded", [False, True], ids=["full", "sharded"])
@pytest.mark.parametrize("orig", [False, True], ids=["flat", "orig params"])
@pytest.mark.parametrize("case", CASES)
def test_fsdp1_state_dicts_resume_bit_for_bit_with_zero_weights(
    case: str, orig: bool, sharded: bool, pools: Any
) -> None:
    if not orig and "sliced" in case:
        pytest.skip("flat parameters cannot be sliced")
    for whole, other in pools(2).run(partial(fsdp1_through, case, orig=orig, sharded=sharded)):
        assert same(other, whole)
        assert whole["d"][-1] > 1.05 * whole["d"][0] or CASES[case][0] not in WITH_D
