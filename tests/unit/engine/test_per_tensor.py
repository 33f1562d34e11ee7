"""Check that with estimates="per_tensor" every tensor is trained as by an optimizer of its own, and that its state is whole."""

import copy
import io
from typing import Any

import pytest
import torch
from torch import nn

import dadapt_dist as dd
from dadapt_dist.monitor import record
from tests.helpers.classes import ALL, WITH_D, first_d
from tests.helpers.models import Tiny, gradients
from tests.helpers.oracles import ORACLES

# First steps divide by a v next to 0, and the d of Adam++ follows weights that overshoot; the others keep to 1e-10.
ALLOWED = {"dadapt_adam": 1e-9, "adam_pp": 1e-6}
STEPS = 12
NAMES = [name for name, _ in Tiny().named_parameters()]


def build(method: str, model: nn.Module, **options: Any) -> Any:
    usual = {"estimates": "per_tensor", **first_d(method, 1e-3)}
    return ALL[method](model.named_parameters(), **{**usual, **options})


def step(optimizer: Any, model: nn.Module, number: int) -> None:
    values = [p.detach().clone() for p in model.parameters()]
    gradients(model, values, number)
    optimizer.step()


@pytest.mark.parametrize("setting", [{}, {"nonfinite": "skip"}, {"sync": "step"}, {"backend": "eager"}], ids=str)
@pytest.mark.parametrize("method", WITH_D)
def test_each_tensor_follows_an_oracle_of_its_own(method: str, setting: dict[str, Any]) -> None:
    model, judged = Tiny(), Tiny()
    optimizer = build(method, model, **setting)
    oracles = [ORACLES[method]([p], **first_d(method, 1e-3)) for p in judged.parameters()]
    for number in range(STEPS):
        step(optimizer, model, number)
        found = gradients(judged, [oracle.params[0] for oracle in oracles], number)
        for oracle, g in zip(oracles, found, strict=True):
            oracle.step([g])
        assert list(optimizer.d) == NAMES
        expected = [oracle.d for oracle in oracles]
        assert [*optimizer.d.values()] == pytest.approx(
            expected, rel=ALLOWED["adam_pp"] if method == "adam_pp" else 1e-10
        )
    for p, oracle in zip(model.parameters(), oracles, strict=True):
        assert (p.detach() - oracle.params[0]).norm() <= ALLOWED.get(method, 1e-10) * oracle.params[0].norm()
    assert len({*optimizer.d.values()}) > 5, "the tensors have one d: the comparison would be empty"


def test_groups_keep_their_options_and_tensors_without_names_are_numbered() -> None:
    model = Tiny()
    params = [*model.parameters()]
    optimizer = dd.Prodigy(
        [{"params": params[:3], "lr": 0.5}, {"params": params[3:], "d0": 1e-2}], d0=1e-3, estimates="per_tensor"
    )
    places = [f"0.{i}" for i in range(3)] + [f"1.{i}" for i in range(len(params) - 3)]
    assert list(optimizer.d) == places
    assert [*optimizer.d.values()] == [1e-3] * 3 + [1e-2] * (len(params) - 3)
    for number in range(STEPS):
        step(optimizer, model, number)
    found = optimizer.d
    rates = [sum(found[name] for name in places[:3]) / 3 * 0.5, sum(found[n] for n in places[3:]) / len(places[3:])]
    assert optimizer.effective_lr == pytest.approx(rates)
    assert {f"d/{name}" for name in places} < record(optimizer).keys()
    assert "over 10 tensors" in repr(optimizer).splitlines()[0]


def test_a_group_shows_a_vector_and_takes_one() -> None:
    model = Tiny()
    optimizer = build("prodigy", model)
    step(optimizer, model, 0)
    (group,) = optimizer.param_groups
    assert group["d"].shape == (len(NAMES),)
    assert group["d"].tolist() == [*optimizer.d.values()]
    optimizer.set_d(0.25, estimate=NAMES[2])
    assert optimizer.d[NAMES[2]] == 0.25
    assert group["d"][2] == 0.25
    group["d"][3] = 0.5
    assert optimizer.d[NAMES[3]] == 0.5
    wanted = [0.01 * (i + 1) for i in range(len(NAMES))]
    group["d"] = wanted
    assert [*optimizer.d.values()] == wanted
    group["d"] = 0.125
    assert [*optimizer.d.values()] == [0.125] * len(NAMES)
    for bad in ([1.0, 2.0], [-1.0] * len(NAMES), "x"):
        group["d"] = bad
        with pytest.raises(ValueError, match="d="):
            optimizer.step()
        assert [*optimizer.d.values()] == [0.125] * len(NAMES)
    group["d"] = [1.0, 2.0]
    with pytest.raises(
        ValueError, match=r"> 0 or, with an estimate for each tensor, one such number for each tensor of the group\."
    ):
        optimizer.step()
    group["d"] = 0.125
    with pytest.raises(ValueError, match="there are several estimates"):
        optimizer.set_d(1.0)
    with pytest.raises(ValueError, match="there is no estimate 'nobody'"):
        optimizer.set_d(1.0, estimate="nobody")


@pytest.mark.parametrize("method", WITH_D)
def test_a_checkpoint_after_every_step_changes_nothing(method: str) -> None:
    models = [Tiny(), Tiny()]
    one, other = (build(method, model) for model in models)
    for number in range(STEPS):
        step(one, models[0], number)
        step(other, models[1], number)
        file = io.BytesIO()
        torch.save(other.state_dict(), file)
        file.seek(0)
        other = build(method, models[1])
        other.load_state_dict(torch.load(file, weights_only=True))
        assert other.d == one.d
    for p, q in zip(*(model.parameters() for model in models), strict=True):
        assert torch.equal(p, q)


def test_a_checkpoint_goes_by_names_and_by_order_where_there_are_others() -> None:
    model = Tiny()
    optimizer = build("prodigy", model)
    for number in range(5):
        step(optimizer, model, number)
    saved = optimizer.state_dict()
    (group,) = saved["param_groups"]
    assert group["tensor_estimates"] == NAMES
    assert group["d"] == [*optimizer.d.values()]
    turned = copy.deepcopy(saved)
    for key, value in turned["param_groups"][0].items():
        if isinstance(value, list) and key not in ("params", "param_names"):
            turned["param_groups"][0][key] = value[::-1]
    for state in (saved, turned):
        fresh = build("prodigy", Tiny())
        fresh.load_state_dict(state)
        assert fresh.d == optimizer.d
    nameless = dd.Prodigy(Tiny().parameters(), d0=1e-3, estimates="per_tensor")
    nameless.load_state_dict(saved)
    assert [*nameless.d.values()] == [*optimizer.d.values()]
    assert next(iter(nameless.d)) == "0.0"


def test_what_does_not_fit_is_refused_and_nothing_changes() -> None:
    model = Tiny()
    optimizer, shared = build("prodigy", model), dd.Prodigy(Tiny().named_parameters(), d0=1e-3)
    step(optimizer, model, 0)
    before = copy.deepcopy(optimizer.state_dict())
    with pytest.raises(
        ValueError, match="one d for all its tensors, and this optimizer has not: build it without estimates="
    ):
        optimizer.load_state_dict(shared.state_dict())
    with pytest.raises(ValueError, match=r'one d for each tensor, and this optimizer has not.*estimates="per_tensor"'):
        shared.load_state_dict(optimizer.state_dict())
    for key, value in (("d", [1.0]), ("d", 1.0), ("d", [-1.0] * len(NAMES)), ("tensor_estimates", NAMES[:2])):
        broken = copy.deepcopy(before)
        broken["param_groups"][0][key] = value
        with pytest.raises(ValueError, match="group 0 of the checkpoint"):
            optimizer.load_state_dict(broken)
    assert optimizer.state_dict()["param_groups"] == before["param_groups"]
    with pytest.raises(ValueError, match="with estimates='per_tensor' each tensor has one of its own"):
        dd.Prodigy([{"params": [nn.Parameter(torch.ones(1))], "estimate": "a"}], estimates="per_tensor")
    step_size = dd.StepSize("per_tensor")
    dd.Prodigy([nn.Parameter(torch.ones(1))], step_size=step_size)
    with pytest.raises(ValueError, match=r"two tensors have the name '0\.0'.*named_parameters"):
        dd.Prodigy([nn.Parameter(torch.ones(1))], step_size=step_size)
    with pytest.raises(
        ValueError, match="estimates='per_tensors' must be a list of different names, 'per_tensor' or None"
    ):
        dd.StepSize("per_tensors")


def test_a_group_that_is_added_brings_its_estimates() -> None:
    model, extra = Tiny(), nn.Parameter(torch.ones(3, dtype=torch.float64))
    optimizer = build("prodigy", model)
    for number in range(4):
        step(optimizer, model, number)
    found = optimizer.d
    optimizer.add_param_group({"params": [("extra", extra)], "lr": 0.5})
    assert optimizer.d == found | {"extra": 1e-3}
    alone = nn.Parameter(torch.ones(3, dtype=torch.float64))
    twin = dd.Prodigy([alone], d0=1e-3, lr=0.5)
    for number in range(4, 10):
        extra.grad, alone.grad = extra.detach() - 3.0, alone.detach() - 3.0
        step(optimizer, model, number)
        twin.step()
    assert optimizer.d["extra"] == twin.d > 1e-3
    assert torch.equal(extra, alone)
    optimizer.param_groups[0]["params"].append(nn.Parameter(torch.ones(1)))
    with pytest.raises((ValueError, dd.PlacementError), match=r"optimizer\.add_param_group"):
        optimizer.step()


def test_groups_that_somebody_has_replaced_keep_their_tensors_estimates() -> None:
    model, judged = Tiny(), Tiny()
    optimizer, twin = build("prodigy", model), build("prodigy", judged)
    for number in range(6):
        step(optimizer, model, number)
        step(twin, judged, number)
        optimizer.param_groups = [dict(group) for group in optimizer.param_groups]
        assert optimizer.d == twin.d
    bare = {key: optimizer.param_groups[0][key] for key in ("params", "lr")}
    optimizer.param_groups = [bare]
    step(optimizer, model, 6)
    step(twin, judged, 6)
    assert optimizer.d == twin.d


def test_one_tensor_that_is_not_finite_holds_its_own_estimate_alone() -> None:
    p, q = (nn.Parameter(torch.ones(4, dtype=torch.float64)) for _ in range(2))
    optimizer = dd.Prodigy([("p", p), ("q", q)], d0=1e-3, estimates="per_tensor")
    for number in range(8):
        p.grad, q.grad = p.detach() - 3.0, q.detach() - 3.0
        if number == 7:
            p.grad[0] = torch.nan
            before = optimizer.d
        optimizer.step()
    assert optimizer.d["p"] == before["p"]
    assert optimizer.d["q"] > before["q"]
    assert optimizer.step_size.held_steps == 1


def test_a_frozen_estimate_stays_for_every_tensor_and_a_group_with_lr_0_too() -> None:
    model = Tiny()
    named = [*model.named_parameters()]
    optimizer = dd.Prodigy(
        [{"params": named[:4], "lr": 0.0}, {"params": named[4:]}], d0=1e-3, estimates="per_tensor", freeze_after=5
    )
    for number in range(5):
        step(optimizer, model, number)
    found = optimizer.d
    assert [found[name] for name, _ in named[:4]] == [1e-3] * 4
    for number in range(5, 8):
        step(optimizer, model, number)
    assert optimizer.d == found
    counts = [optimizer.step_size._value(name, "k") for name, _ in named]
    assert counts == [0] * 4 + [8] * (len(named) - 4)


def test_a_single_tensor_has_a_dict_too_and_options_of_a_group_may_change() -> None:
    for number in (1, 3):
        params = [nn.Parameter(torch.ones(4, dtype=torch.float64)) for _ in range(number)]
        optimizer = dd.Prodigy([(f"p{i}", p) for i, p in enumerate(params)], d0=1e-3, estimates="per_tensor")
        expected = {f"p{i}": 1e-3 for i in range(number)}
        assert optimizer.d == expected
        optimizer.param_groups[0]["d_coef"] = 0.0001
        for _ in range(5):
            for p in params:
                p.grad = p.detach() - 3.0
            optimizer.step()
        assert optimizer.d == expected
