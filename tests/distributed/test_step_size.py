"""Check windows, shared step sizes, separate estimates and freezing, with one all-reduce per step."""

from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor
from torch.distributed.tensor.debug import CommDebugMode

import dadapt_dist as dd
from dadapt_dist.methods import METHODS
from tests.helpers.classes import ALL, WITH_D, first_d, make
from tests.helpers.collectives import reduces_of
from tests.helpers.oracles import ORACLES

STEPS = 8
SHAPES = [(5, 3), (4,), (2, 2)]


def whole(index: int, step: int = -1) -> Tensor:
    generator = torch.Generator().manual_seed(100 * index + step + 1)
    return torch.randn(SHAPES[index], generator=generator, dtype=torch.float64)


def slope(index: int, step: int) -> Tensor:
    """The gradient of a whole tensor at a step: mostly the same direction, so that d grows."""
    return whole(index) + 0.3 * whole(index, step)


def local_params() -> list[nn.Parameter]:
    if not dist.is_initialized():
        return [nn.Parameter(whole(index)) for index in range(len(SHAPES))]
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    return [nn.Parameter(distribute_tensor(whole(i), mesh, [Shard(0)], src_data_rank=None)) for i in range(len(SHAPES))]


def set_gradients(params: list[nn.Parameter], step: int) -> None:
    for index, p in enumerate(params):
        grad = slope(index, step)
        p.grad = (
            distribute_tensor(grad, p.device_mesh, [Shard(0)], src_data_rank=None) if dist.is_initialized() else grad
        )  # type: ignore[attr-defined]


def reference(method: str, **options: Any) -> list[float]:
    oracle = ORACLES[method]([whole(index) for index in range(len(SHAPES))], **first_d(method, 1e-3), **options)
    ds = []
    for step in range(STEPS):
        oracle.step([slope(index, step) for index in range(len(SHAPES))])
        ds.append(oracle.d)
    assert ds[-1] > 1.4 * ds[0], "d never moved: the comparison would be empty"
    return ds


def two_optimizers(method: str, explicit: bool, nonfinite: str = "hold") -> dict[str, Any]:
    """Two optimizer objects that share one StepSize, as torchtitan and pipeline schedules make them."""
    params = local_params()
    step_size = dd.StepSize(nonfinite=nonfinite)  # type: ignore[arg-type]
    first, second = (make(method, part, step_size=step_size) for part in (params[:1], params[1:]))
    ds, collectives = [], []
    for step in range(STEPS):
        set_gradients(params, step)
        with CommDebugMode() as communication:
            if explicit:
                with step_size.window():
                    first.step()
                    second.step()
            else:
                first.step()
                second.step()
        collectives.append(communication.get_total_counts())
        assert first.d == second.d == float(first.param_groups[0]["d"]) == float(second.param_groups[0]["d"])
        ds.append(step_size.d)
    return {"d": ds, "collectives": collectives}


@pytest.mark.parametrize("nonfinite", ["hold", "skip"])
@pytest.mark.parametrize("explicit", [False, True], ids=["steps in turn", "explicit window"])
@pytest.mark.parametrize("method", ["prodigy", "dadapt_sgd", "dadapt_adan", "dog"])
def test_two_optimizers_with_one_step_size_are_one_optimizer(
    method: str, explicit: bool, nonfinite: str, pools: Any
) -> None:
    wanted = pytest.approx(reference(method), rel=1e-12)
    assert two_optimizers(method, explicit, nonfinite)["d"] == wanted
    results = pools(2).run(two_optimizers, method, explicit, nonfinite)
    for result in results:
        assert result["d"] == wanted
        assert result["d"] == results[0]["d"]
        assert result["collectives"][1:] == [1] * (STEPS - 1)


@pytest.mark.parametrize("method", ALL)
def test_two_parts_of_a_model_are_as_one_that_one_optimizer_has(method: str) -> None:
    """In one process, d and the weights: of a method without d, too."""
    whole_model, parts = local_params(), local_params()
    one, step_size = make(method, whole_model), dd.StepSize()
    pair = [make(method, part, step_size=step_size) for part in (parts[:2], parts[2:])]
    for step in range(STEPS):
        set_gradients(whole_model, step)
        set_gradients(parts, step)
        one.step()
        for optimizer in pair:
            optimizer.step()
        assert pair[0].d == pytest.approx(one.d, rel=1e-12, nan_ok=True)
    for p, q in zip(whole_model, parts, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-12, atol=1e-14)


def windows() -> dict[str, Any]:
    params = local_params()
    step_size = dd.StepSize()
    optimizer = dd.Prodigy(params, d0=1e-3, step_size=step_size)
    counts, ds = [], []
    for step in range(STEPS):
        set_gradients(params, step)
        with CommDebugMode() as communication:
            with step_size.window():
                pass  # an overflow skipped the step, on every rank
            with pytest.raises(KeyError), step_size.window():
                raise KeyError("the loop failed before the step")
        counts.append(communication.get_total_counts())
        optimizer.step()
        ds.append(optimizer.d)
    return {"counts": counts, "d": ds, "steps": step_size.steps}


def test_a_window_without_steps_runs_no_collective_and_moves_nothing(pools: Any) -> None:
    for result in pools(2).run(windows):
        assert result["counts"] == [0] * STEPS
        assert result["steps"] == STEPS
        assert result["d"] == pytest.approx(reference("prodigy"), rel=1e-12)


def estimates() -> dict[str, Any]:
    params = local_params()
    groups = [{"params": params[:1], "estimate": "text"}, {"params": params[1:], "estimate": "image", "d_coef": 0.5}]
    optimizer = dd.Prodigy(groups, d0=1e-3)
    ds, collectives = [], []
    for step in range(STEPS):
        set_gradients(params, step)
        with CommDebugMode() as communication:
            optimizer.step()
        collectives.append(communication.get_total_counts())
        ds.append(optimizer.d)
        assert [group["d"] for group in optimizer.param_groups] == list(ds[-1].values())  # type: ignore[union-attr]
    return {"d": ds, "collectives": collectives}


def test_two_estimates_are_two_oracles_with_one_all_reduce(pools: Any) -> None:
    groups = [{"indices": [0], "estimate": "text"}, {"indices": [1, 2], "estimate": "image", "d_coef": 0.5}]
    oracle = ORACLES["prodigy"]([whole(index) for index in range(len(SHAPES))], groups, d0=1e-3)
    results = pools(2).run(estimates)
    for step in range(STEPS):
        oracle.step([slope(index, step) for index in range(len(SHAPES))])
        for result in results:
            assert result["d"][step] == pytest.approx(oracle.ds, rel=1e-12)
    assert oracle.ds["text"] != oracle.ds["image"]
    assert all(result["collectives"][1:] == [1] * (STEPS - 1) for result in results)


def frozen(method: str, freeze_after: int) -> dict[str, Any]:
    params = local_params()
    optimizer = make(method, params, freeze_after=freeze_after)
    ds, collectives, buffers = [], [], []
    for step in range(STEPS):
        set_gradients(params, step)
        with CommDebugMode() as communication:
            optimizer.step()
        collectives.append(communication.get_total_counts())
        buffers.append(sorted(optimizer.state[params[0]]))
        ds.append(optimizer.d)
    local = [p.to_local().detach() if hasattr(p, "to_local") else p.detach() for p in params]
    return {"d": ds, "collectives": collectives, "buffers": buffers, "params": local}


@pytest.mark.parametrize("method", ALL)
def test_freezing_stops_d_and_the_collectives_and_releases_the_statistics(method: str, pools: Any) -> None:
    alone = frozen(method, 5)
    oracle = ORACLES[method]([whole(index) for index in range(len(SHAPES))], freeze_after=5, **first_d(method, 1e-3))
    for step in range(STEPS):
        oracle.step([slope(index, step) for index in range(len(SHAPES))])
        assert alone["d"][step] == pytest.approx(oracle.d, rel=1e-12, nan_ok=method not in WITH_D)
    for ours, wanted in zip(alone["params"], oracle.params, strict=True):
        torch.testing.assert_close(ours, wanted, rtol=1e-12, atol=1e-14)
    buffers = METHODS[method]().buffers(METHODS[method].options.defaults())
    released = {name for name, buffer in buffers.items() if buffer.statistic}
    assert set(alone["buffers"][4]) - set(alone["buffers"][5]) == released
    for result in pools(2).run(frozen, method, 5):
        assert result["d"] == pytest.approx(alone["d"], rel=1e-12, nan_ok=method not in WITH_D)
        assert len({d.hex() for d in result["d"][4:]}) == 1
        assert result["collectives"][1:] == [reduces_of(method)] * 4 + [0] * (STEPS - 5)


def test_sync_step_gives_the_same_trajectory(pools: Any) -> None:
    assert pools(2).run(synchronous) == [pytest.approx(reference("prodigy"), rel=1e-12)] * 2


def synchronous() -> list[float]:
    params = local_params()
    optimizer = dd.Prodigy(params, d0=1e-3, sync="step")
    ds = []
    for step in range(STEPS):
        set_gradients(params, step)
        optimizer.step()
        assert not optimizer.step_size._reduce.under_way
        ds.append(optimizer.d)
    return ds


def both_ways() -> tuple[bool, bool, bool]:
    """Whether the reduce is under way after step() and after a group was read, and done after d was read."""
    params = local_params()
    optimizer = dd.Prodigy(params, d0=1e-3)
    set_gradients(params, 0)
    optimizer.step()
    under_way = optimizer.step_size._reduce.under_way
    assert float(optimizer.param_groups[0]["d"]) == 1e-3
    still_under_way = optimizer.step_size._reduce.under_way
    _ = optimizer.d
    return under_way, still_under_way, not optimizer.step_size._reduce.under_way


def test_the_reduce_is_left_under_way_until_d_is_needed(pools: Any) -> None:
    assert pools(2).run(both_ways) == [(True, True, True)] * 2


def unread() -> float:
    """d after training in which nobody looked at it: each step must wait for the reduce of the step before by itself."""
    params = local_params()
    optimizer = dd.Prodigy(params, d0=1e-3)
    for step in range(STEPS):
        set_gradients(params, step)
        optimizer.step()
    return optimizer.d


def test_d_that_nobody_reads_during_training_is_the_same(pools: Any) -> None:
    assert pools(2).run(unread) == [pytest.approx(reference("prodigy")[-1], rel=1e-12)] * 2
    assert unread() == pytest.approx(reference("prodigy")[-1], rel=1e-12)


def changed_coefficient() -> list[float]:
    params = local_params()
    optimizer = dd.Prodigy([{"params": params[:1]}, {"params": params[1:]}], d0=1e-3)
    ds = []
    for step in range(STEPS):
        if step == 3:
            optimizer.param_groups[0]["d_coef"] = 2.0
            with pytest.raises(ValueError, match="d_coef"):  # one d has one d_coef, and the other group still has 1.0
                optimizer.step()
            optimizer.param_groups[1]["d_coef"] = 2.0
        set_gradients(params, step)
        optimizer.step()
        ds.append(optimizer.d)
    return ds


def test_a_constant_of_the_estimate_changed_in_its_groups_is_followed_from_then_on(pools: Any) -> None:
    oracle = ORACLES["prodigy"]([whole(index) for index in range(len(SHAPES))], d0=1e-3)
    wanted = []
    for step in range(STEPS):
        if step == 3:
            oracle.groups[0]["d_coef"] = 2.0
        oracle.step([slope(index, step) for index in range(len(SHAPES))])
        wanted.append(oracle.d)
    assert wanted[-1] > 1.5 * reference("prodigy")[-1]
    for ds in [changed_coefficient(), *pools(2).run(changed_coefficient)]:
        assert ds == pytest.approx(wanted, rel=1e-12)


@pytest.mark.parametrize("key", ALL)
def test_an_estimate_that_a_later_group_brings_trains(key: str) -> None:
    params = local_params()
    optimizer = make(key, params[:2])
    groups = [{"indices": [0, 1]}, {"indices": [2], "estimate": "late", "lr": 0.0}]
    oracle = ORACLES[key](params, groups, **first_d(key, 1e-3))
    for step in range(12):
        if step == 3:
            optimizer.add_param_group({"params": params[2:], "estimate": "late"})
            oracle.groups[1]["lr"] = oracle.groups[0]["lr"]
        set_gradients(params, step)
        optimizer.step()
        oracle.step([slope(index, step) for index in range(3)])
    assert key not in WITH_D or optimizer.d == pytest.approx(oracle.ds, rel=1e-10)
    assert torch.allclose(params[2], oracle.params[2], rtol=1e-10)
    assert not torch.equal(params[2], whole(2))


def test_a_frozen_estimate_counts_the_steps_in_which_it_moves() -> None:
    """Bias correction reads the count."""
    params, options = local_params(), {"d0": 1e-3, "use_bias_correction": True, "freeze_after": 4}
    groups = [{"params": params[:1]}, {"params": params[1:], "estimate": "other"}]
    optimizer = dd.Prodigy(groups, **options)  # type: ignore[arg-type]
    oracle = ORACLES["prodigy"](params, [{"indices": [0]}, {"indices": [1, 2], "estimate": "other"}], **options)  # type: ignore[arg-type]
    for step in range(10):
        for group in (optimizer.param_groups[1], oracle.groups[1]):
            group["lr"] = float(step not in (5, 6, 7))
        set_gradients(params, step)
        optimizer.step()
        oracle.step([slope(index, step) for index in range(3)])
    assert optimizer.step_size._scalars.values["k"].tolist() == [*oracle.k.values()] == [10, 7]
    assert all(torch.allclose(p, x, rtol=1e-10) for p, x in zip(params, oracle.params, strict=True))


def parts_of_one_model(count: int, step_size: Any) -> None:
    layers = [torch.nn.Linear(3, 3) for _ in range(count)]
    optimizers = [dd.Prodigy(layer.parameters(), d0=1e-3, step_size=step_size) for layer in layers]
    for _ in range(4):
        torch.nn.Sequential(*layers)(torch.ones(2, 3)).square().sum().backward()
        for optimizer in optimizers:
            optimizer.step()
        for optimizer in optimizers:
            optimizer.zero_grad()


def adversaries(*, to_none: bool) -> None:
    models = torch.nn.Linear(3, 3), torch.nn.Linear(3, 3)
    optimizers = [dd.Prodigy(model.parameters(), d0=1e-3) for model in models]
    for _ in range(4):
        for model, optimizer in zip(models, optimizers, strict=True):
            optimizer.zero_grad(set_to_none=to_none)
            model(torch.ones(2, 3)).square().sum().backward()
            optimizer.step()


def test_several_estimates_of_one_model_are_told_of_once(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A d each, in silence: torchtitan's parts, one optimizer a parameter. Networks with losses of their own are right."""
    import weakref

    from dadapt_dist.engine.diagnostics import separate_estimates

    caplog.set_level("INFO", "dadapt_dist")
    for run, levels in (
        (lambda: parts_of_one_model(2, None), ["INFO"]),
        (lambda: parts_of_one_model(4, None), ["WARNING"]),
        (lambda: parts_of_one_model(4, "parts"), []),
        (lambda: adversaries(to_none=True), []),
        (lambda: adversaries(to_none=False), []),
    ):
        monkeypatch.setattr(separate_estimates, "_told", False)
        monkeypatch.setattr(separate_estimates, "_alive", weakref.WeakSet())
        caplog.clear()
        run()
        assert [record.levelname for record in caplog.records] == levels
        assert all('step_size="model"' in record.getMessage() for record in caplog.records)


def test_a_name_shares_one_step_size_until_it_has_taken_steps() -> None:
    p, q, other = (torch.nn.Parameter(torch.ones(2)) for _ in range(3))
    first = dd.Prodigy([p], step_size="one model", sync="step")
    second = dd.Prodigy([q], step_size="one model")
    assert first.step_size is second.step_size
    with pytest.raises(ValueError, match="'one model' was made with another freeze_after"):
        dd.Prodigy([other], step_size="one model", freeze_after=3)
    p.grad = q.grad = torch.ones(2)
    first.step()
    second.step()
    assert dd.Prodigy([other], step_size="one model").step_size is not first.step_size
