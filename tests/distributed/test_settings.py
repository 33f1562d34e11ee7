"""Check settings that are assigned in the middle of a run: on all ranks they count, on one rank alone they are told of."""

import logging
import math
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from tests.helpers.classes import WITH_BEFORE, WITH_D, estimate_of, first_d, make
from tests.helpers.placed import tensor
from tests.helpers.said import Messages

STEPS = 9
SPOILT = 5


def trained(
    method: str, changes: dict[int, tuple[str, Any]], *, spoilt: int | None = None, alone: bool = False
) -> tuple[list[float], Tensor, list[str]]:
    """d or rate of each step, this rank's parameter at the end, and what was said. changes: setting and value, by step.

    Each rank has a slice of its own of one tensor; one process has all of it. alone: only rank 0 makes the changes.
    """
    ranks, rank = (dist.get_world_size(), dist.get_rank()) if dist.is_initialized() else (1, 0)
    p = nn.Parameter(tensor("w", 8, 3).chunk(ranks)[rank].clone())
    optimizer = make(method, [p], **first_d(method, 1e-2), copies=lambda _: 1)
    messages, ds = Messages(), []
    logging.getLogger("dadapt_dist").addHandler(messages)
    try:
        for step in range(STEPS):
            if step in changes and (rank == 0 or not alone):
                setattr(optimizer.step_size, *changes[step])
            p.grad = tensor("w", 8, 3, step=step).chunk(ranks)[rank].clone()
            if step == spoilt and rank == ranks - 1:
                p.grad[-1] = math.nan
            optimizer.step()
            ds.append(estimate_of(optimizer))
    finally:
        logging.getLogger("dadapt_dist").removeHandler(messages)
    return ds, p.detach(), messages.texts


CHANGES: dict[str, dict[int, tuple[str, Any]]] = {
    "nonfinite": {3: ("nonfinite", "skip"), 7: ("nonfinite", None)},
    "freeze_after": {3: ("freeze_after", 6)},
    "before": {3: ("before", "lagged"), 6: ("before", "exact")},
    "sync": {3: ("sync", "step"), 6: ("sync", "next_step")},
}

STAYS = {"nonfinite": SPOILT, "freeze_after": 7}  # a step that leaves d as it was


@pytest.mark.parametrize("method", sorted({"prodigy", *WITH_BEFORE}))
@pytest.mark.parametrize("name", CHANGES)
def test_a_setting_changed_on_all_ranks_gives_the_run_of_one_process(name: str, method: str, pools: Any) -> None:
    spoilt = SPOILT if name == "nonfinite" else None
    ds, whole, _ = trained(method, CHANGES[name], spoilt=spoilt)
    has_d = method in WITH_D
    runs = pools(2).run(trained, method, CHANGES[name], spoilt=spoilt)
    assert runs[0][0] == runs[1][0] or not has_d
    assert runs[0][0] == pytest.approx(ds, rel=1e-12, nan_ok=not has_d)
    torch.testing.assert_close(torch.cat([run[1] for run in runs]), whole, rtol=1e-10, atol=1e-12)
    assert name not in STAYS or not has_d or ds[STAYS[name]] == ds[STAYS[name] - 1]
    assert not [text for run in runs for text in run[2] if "ranks" in text and "held on all ranks" not in text]
    assert method not in WITH_D or ds[-1] > ds[0] or method == "kt"  # which may lose


@pytest.mark.parametrize("method", ["prodigy", "dog"])
@pytest.mark.parametrize("setting", [("nonfinite", "skip"), ("before", "lagged")], ids=str)
def test_a_setting_changed_on_one_rank_alone_is_told_and_holds_d_until_the_ranks_agree(
    setting: Any, method: str, pools: Any
) -> None:
    """Nobody compared them after the first step: one rank skipped a step that the others took, or sent a longer reduce."""
    usual = {"nonfinite": None, "before": "exact"}[setting[0]]
    for ds, _, texts in pools(2).run(trained, method, {3: setting, 6: (setting[0], usual)}, alone=True):
        assert [
            text
            for text in texts
            if "the ranks have different options: nonfinite, freeze_after, before or clip_norm." in text
        ]
        assert ds[2] == ds[3] == ds[4] == ds[5]
        assert ds[2] > ds[1]
        assert ds[8] > ds[5]
