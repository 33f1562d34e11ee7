"""Check that d is that of one process when ranks run out of input at different times (torch's `Join`)."""

from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.algorithms.join import Join
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

import dadapt_dist as dd
from tests.helpers.classes import ALWAYS_BEFORE, SETTINGS, WITH_D, WITHOUT_SUMS, first_d, make, method_of
from tests.helpers.layout_runs import of_oracle
from tests.helpers.oracles import ORACLES
from tests.helpers.placed import tensor

BATCHES = [[2, 5, 3], [4, 1, 6]]  # of each rank, in two epochs


def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 1)).double()


def loss(m: nn.Module, epoch: int, batch: int, rank: int) -> Tensor:
    x = tensor("x", 8, 6, step=100 * epoch + 10 * batch + rank)
    return (m(x) - x.sin().sum(1, keepdim=True)).square().mean()


def cap(method: str) -> dict[str, Any]:
    """One so low that it holds back steps, where the method has one."""
    return {"rms_cap": 3e-3, "total_steps": 30} if method in SETTINGS else {}


def oracle(method: str, ranks: int, *, by_all: bool) -> tuple[list[float], list[Tensor]]:
    """One process that sees the averaged gradients: divided by all ranks, or by those that had input."""
    m = model()
    options = of_oracle({**first_d(method, 1e-3), **SETTINGS.get(method, {}), **cap(method)})
    own, ds = ORACLES[method_of(method)]([p.detach().clone() for p in m.parameters()], **options), []
    for epoch, batches in enumerate(BATCHES):
        for batch in range(max(batches[:ranks])):
            active = [rank for rank in range(ranks) if batch < batches[rank]]
            for p, q in zip(m.parameters(), own.params, strict=True):
                p.data.copy_(q)
                p.grad = None
            for rank in active:
                (loss(m, epoch, batch, rank) / (ranks if by_all else len(active))).backward()
            own.step([p.grad for p in m.parameters()])
        ds.append(own.d)
    return ds, own.params


def uneven(method: str, kind: str, *, by_all: bool, **options: Any) -> tuple[list[float], list[Tensor], list[Tensor]]:
    """d after each epoch, parameters, buffers."""
    m = model()
    ddp = DistributedDataParallel(m)
    optimizer = make(method, m.parameters(), **options)
    kinds = {"both": [ddp, optimizer], "reversed": [optimizer, ddp], "alone": [ddp]}
    ds = []
    for epoch, batches in enumerate(BATCHES):
        with Join(kinds[kind], divide_by_initial_world_size=by_all):
            for batch in range(batches[dist.get_rank()]):
                loss(ddp, epoch, batch, dist.get_rank()).backward()
                optimizer.step()
                optimizer.zero_grad()
        ds.append(optimizer.d)
    state = [t for buffers in optimizer.state.values() for _, t in sorted(buffers.items())]
    return ds, [p.detach() for p in m.parameters()], [*state, torch.tensor(optimizer.step_size.steps)]


@pytest.mark.parametrize(
    ("method", "ranks", "kind", "by_all"),
    [
        ("prodigy", 2, "both", True),
        ("prodigy", 3, "reversed", False),
        ("prodigy auto", 2, "both", True),
        ("prodigy auto", 3, "alone", False),
        ("prodigy auto", 3, "reversed", True),
        ("dadapt_sgd", 3, "both", True),
        ("dadapt_sgd", 3, "alone", False),
        ("dadapt_adam", 2, "alone", True),
        *((method, 2, "both", True) for method in (*ALWAYS_BEFORE, *WITHOUT_SUMS)),
        *((method, 3, "alone", False) for method in (*ALWAYS_BEFORE, *WITHOUT_SUMS)),
    ],
)
def test_uneven_inputs_train_as_in_one_process(method: str, ranks: int, kind: str, by_all: bool, pools: Any) -> None:
    """A rank that had run out left the reduces of the others to the timeout of the process group."""
    ds, params = oracle(method, ranks, by_all=by_all)
    assert ds[-1] > 1.4e-3 or method_of(method) not in WITH_D
    first, *others = pools(ranks).run(uneven, method, kind, by_all=by_all, **cap(method))
    assert first[0] == pytest.approx(ds, rel=1e-12, nan_ok=method_of(method) not in WITH_D)
    for own, one in zip(first[1], params, strict=True):
        torch.testing.assert_close(own, one, rtol=1e-11, atol=1e-12)
    for other in others:
        assert [d.hex() for d in other[0]] == [d.hex() for d in first[0]]
        assert all(torch.equal(a, b) for part in (1, 2) for a, b in zip(other[part], first[part], strict=True))


def test_steps_that_wait_for_their_sums_may_be_uneven_too(pools: Any) -> None:
    ds, _ = oracle("prodigy", 2, by_all=True)
    for options in ({"nonfinite": "skip"}, {"sync": "step"}):
        for found, _, _ in pools(2).run(uneven, "prodigy", "both", by_all=True, **options):
            assert found == pytest.approx(ds, rel=1e-12)


def no_batches() -> tuple[float, int]:
    """Rank 0 has none at all, gradients are accumulated over two batches, and two optimizers share one d."""
    m = model()
    ddp = DistributedDataParallel(m)
    step_size = dd.StepSize()
    optimizers = [dd.Prodigy(part.parameters(), d0=1e-3, step_size=step_size) for part in (m[0], m[2])]
    with Join([ddp, *optimizers]):
        for batch in range(8 * dist.get_rank()):
            loss(ddp, 0, batch, 0).backward()
            if batch % 2:
                for optimizer in optimizers:
                    optimizer.step()
                    optimizer.zero_grad()
    return step_size.d, step_size.steps


def test_a_rank_without_any_batch_and_accumulated_gradients(pools: Any) -> None:
    """How many reduces there will be cannot be told from the iterations that DDP announces."""
    first, second = pools(2).run(no_batches)
    assert first == second
    assert first[0] > 1e-3
    assert first[1] == 4


def cut() -> str:
    m = model()
    fully_shard(m)
    try:
        Join([dd.Prodigy(m.parameters())])
    except ValueError as error:
        return str(error)
    return ""


def test_parameters_that_are_cut_over_ranks_cannot_be_joined_early(pools: Any) -> None:
    assert all("cut over the ranks" in text for text in pools(2).run(cut))
