"""Check that every element counts once, whatever is replicated, sliced or alike, and that doubt raises an error."""

from typing import Any

import pytest
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, distribute_tensor

import dadapt_dist as dd
from dadapt_dist.errors import PlacementError
from dadapt_dist.sharding import replicated
from tests.helpers.oracles import ORACLES
from tests.helpers.placed import expected, message, tensor, train


def late_group(*, named: bool = True) -> tuple[float, float]:
    """From step 3 on rank 0 has one tensor more; the other rank's share of that group is empty. d, and the oracle's."""
    params = {"w": nn.Parameter(tensor("w", 4))}
    optimizer = dd.Prodigy(params.items() if named else params.values(), d0=1e-3)
    shapes = {"w": (4,), "late": (5,)}
    oracle = ORACLES["prodigy"](
        [tensor(n, *s) for n, s in shapes.items()], [{"indices": [0]}, {"indices": [1], "lr": 0.0}], d0=1e-3
    )
    for step in range(12):
        if step == 3:
            oracle.groups[1]["lr"] = 1.0
            if dist.get_rank() == 0:
                params["late"] = nn.Parameter(tensor("late", 5))
            late = [pair if named else pair[1] for pair in params.items() if pair[0] == "late"]
            optimizer.add_param_group({"params": late, **({"param_names": []} if named and not late else {})})
        for name, p in params.items():
            p.grad = tensor(name, *shapes[name], step=step)
        optimizer.step()
        oracle.step([tensor(name, *shape, step=step) for name, shape in shapes.items()])
    return optimizer.d, oracle.d


def test_a_group_is_added_that_is_empty_on_some_rank(pools: Any) -> None:
    """That rank saw no new parameter, placed nothing, and the others waited for it."""
    for d, right in pools(2).run(late_group):
        assert d == pytest.approx(right, rel=1e-12)
        assert d > 2e-3
    with pytest.raises(
        PlacementError, match=r"had 2 copies, and since the lists of parameters of the ranks differ .* named"
    ):
        pools(2).run(late_group, named=False)


def stages(*, named: bool, alike: bool) -> float:
    """Two pipeline stages with one plain tensor each: of equal shape, or not."""
    rank = dist.get_rank()
    name, shape = f"stage{rank}", (4, 3) if alike else (4 + rank, 3)
    return train(
        {name: nn.Parameter(tensor(name, *shape))}, lambda name, step: tensor(name, *shape, step=step), named=named
    )


@pytest.mark.parametrize(("named", "alike"), [(True, True), (True, False), (False, False)])
def test_pipeline_stages_are_told_apart_by_name_or_shape(named: bool, alike: bool, pools: Any) -> None:
    d, _ = expected({"stage0": (4, 3), "stage1": (4, 3) if alike else (5, 3)})
    results = pools(2).run(stages, named=named, alike=alike)
    assert results == [pytest.approx(d, rel=1e-12)] * 2
    assert results[0] == results[1]


def raised_message(name: str, options: dict[str, Any]) -> str:
    return message(globals()[name], **options)


def test_unnamed_stages_that_look_alike_raise_on_all_ranks_and_name_the_cure(pools: Any) -> None:
    for text in pools(2).run(raised_message, "stages", {"named": False, "alike": True}):
        assert "ranks 0 and 1" in text
        assert "(4, 3)" in text
        assert "named_parameters" in text


def drifted() -> float:
    p = nn.Parameter(tensor("w", 4) + dist.get_rank())
    return train({"w": p}, lambda name, step: tensor(name, 4, step=step), named=True)


def test_replicas_with_different_values_raise_on_all_ranks(pools: Any) -> None:
    for text in pools(2).run(raised_message, "drifted", {}):
        assert "broadcast" in text


def slices(*, declared: bool) -> float:
    """A tensor cut by hand into plain tensors, as in Megatron, beside a replicated one."""
    rank = dist.get_rank()
    params = {"cut": nn.Parameter(tensor("cut", 6, 2).chunk(2)[rank].clone()), "bias": nn.Parameter(tensor("bias", 3))}

    def gradient(name: str, step: int) -> Tensor:
        return tensor("cut", 6, 2, step=step).chunk(2)[rank].clone() if name == "cut" else tensor(name, 3, step=step)

    copies = (lambda p: 1 if p is params["cut"] else None) if declared else None
    return train(params, gradient, copies=copies)


def test_slices_in_plain_tensors_raise_until_their_copies_are_declared(pools: Any) -> None:
    for text in pools(2).run(raised_message, "slices", {"declared": False}):
        assert "copies=" in text
    d, _ = expected({"cut": (6, 2), "bias": (3,)})
    assert pools(2).run(slices, declared=True) == [pytest.approx(d, rel=1e-12)] * 2


def bad_copies() -> None:
    train({"w": nn.Parameter(tensor("w", 4))}, lambda name, step: tensor(name, 4, step=step), copies=lambda p: 3)


def test_an_impossible_number_of_copies_raises(pools: Any) -> None:
    for text in pools(2).run(raised_message, "bad_copies", {}):
        assert "copies= gave 3" in text


def experts() -> float:
    """One expert a rank under a name of its own, and a gate that all ranks share."""
    mine = f"expert{dist.get_rank()}"
    shapes: dict[str, tuple[int, ...]] = {mine: (3, 2), "gate": (5,)}
    params = {name: nn.Parameter(tensor(name, *shape)) for name, shape in shapes.items()}
    return train(params, lambda name, step: tensor(name, *shapes[name], step=step), named=True)


def test_experts_count_once_and_the_shared_gate_once(pools: Any) -> None:
    d, _ = expected({"expert0": (3, 2), "expert1": (3, 2), "gate": (5,)})
    assert pools(2).run(experts) == [pytest.approx(d, rel=1e-12)] * 2


def mixed_mesh() -> float:
    """Placements of every kind on a 2 x 2 mesh and its axes, with row counts that divide by nothing."""
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("a", "b"))
    kinds: dict[str, tuple[Any, list[Any]]] = {
        "both": (mesh, [Shard(0), Shard(1)]),
        "twice": (mesh, [Shard(0), Shard(0)]),
        "hsdp": (mesh, [Replicate(), Shard(0)]),
        "replicated": (mesh, [Replicate(), Replicate()]),
        "axis a": (mesh["a"], [Shard(0)]),
        "axis b": (mesh["b"], [Shard(1)]),
    }

    def place(name: str, t: Tensor) -> DTensor:
        on, placements = kinds[name]
        return distribute_tensor(t, on, placements, src_data_rank=None)

    params = {name: nn.Parameter(place(name, tensor(name, 5, 3))) for name in kinds}
    params["plain"] = nn.Parameter(tensor("plain", 5, 3))

    def gradient(name: str, step: int) -> Tensor:
        whole = tensor(name, 5, 3, step=step)
        return place(name, whole) if name in kinds else whole

    return train(params, gradient)


def test_every_placement_on_a_mesh_counts_once(pools: Any) -> None:
    names = ("both", "twice", "hsdp", "replicated", "axis a", "axis b", "plain")
    d, _ = expected(dict.fromkeys(names, (5, 3)))
    results = pools(4).run(mixed_mesh)
    assert results == [pytest.approx(d, rel=1e-12)] * 4
    assert len({d.hex() for d in results}) == 1


def partial_parameter() -> None:
    """On rank 1 alone: the other rank must not be left waiting."""
    mesh = init_device_mesh("cpu", (2,))
    whole = tensor("w", 4)
    kind = Partial() if dist.get_rank() == 1 else Replicate()
    p = nn.Parameter(DTensor.from_local(whole, mesh, [kind], run_check=False))
    train({"w": p}, lambda name, step: DTensor.from_local(whole, mesh, [kind], run_check=False))


def test_a_partial_parameter_on_one_rank_raises_on_all_ranks(pools: Any) -> None:
    for text in pools(2).run(raised_message, "partial_parameter", {}):
        assert text.startswith("rank 1: ")
        assert "Partial" in text


def other_options() -> None:
    optimizer = dd.Prodigy([nn.Parameter(tensor("w", 4))], d_coef=1.0 + dist.get_rank())
    optimizer.param_groups[0]["params"][0].grad = tensor("w", 4, step=0)
    optimizer.step()


def test_different_options_on_different_ranks_raise_on_all_ranks(pools: Any) -> None:
    for text in pools(2).run(raised_message, "other_options", {}):
        assert "d_coef" in text
        assert "ranks 0 and 1" in text


def wrong_adapter() -> None:
    """An adapter that takes a replicated tensor for one of two halves."""
    original, replicated.LocalShard = (
        replicated.LocalShard,
        lambda **options: original_placement(**{**options, "num_shards": 2}),
    )  # type: ignore[misc]
    original_placement = original
    try:
        train({"w": nn.Parameter(tensor("w", 4))}, lambda name, step: tensor(name, 4, step=step))
    finally:
        replicated.LocalShard = original  # type: ignore[misc]


def test_elements_that_do_not_add_up_to_the_model_raise(pools: Any) -> None:
    for text in pools(2).run(raised_message, "wrong_adapter", {}):
        assert "add up to 8" in text
        assert "the model has 4" in text


def own_group() -> float:
    """Each rank trains a model of its own: the group of the optimizer is the rank alone."""
    rank = dist.get_rank()
    groups = [dist.new_group([r]) for r in range(2)]
    name = f"model{rank}"
    p = nn.Parameter(tensor(name, 4))
    return train({name: p}, lambda name, step: tensor(name, 4, step=step), process_group=groups[rank])


def test_a_process_group_of_one_rank_trains_alone(pools: Any) -> None:
    wanted = [expected({f"model{rank}": (4,)})[0] for rank in range(2)]
    assert pools(2).run(own_group) == [pytest.approx(d, rel=1e-12) for d in wanted]


def test_without_torch_distributed_no_collective_is_called(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **options: Any) -> None:
        raise AssertionError("a collective was called")

    for name in ("all_reduce", "all_gather", "all_gather_object"):
        monkeypatch.setattr(dist, name, refuse)
    assert not dist.is_initialized()
    d, _ = expected({"w": (4,)})
    assert train({"w": nn.Parameter(tensor("w", 4))}, lambda name, step: tensor(name, 4, step=step)) == pytest.approx(d)
