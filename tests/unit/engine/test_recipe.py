"""Check the life of a Prodigy with the recipe in one process: groups, pauses, schedules, errors, copies, against the oracle."""

import copy
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import dadapt_dist as dd
from dadapt_dist.comm.communicator import ShardLayout
from dadapt_dist.engine.tensor_rms import TensorRms
from dadapt_dist.kernels.eager import sum_of_squares
from dadapt_dist.methods import METHODS
from dadapt_dist.sharding.shard import LocalShard
from tests.helpers.host_reads import CountReads
from tests.helpers.layout_runs import of_oracle
from tests.helpers.oracles import ORACLES, Oracle
from tests.helpers.oracles.released import Problem, flat, grouped, with_gaps
from tests.helpers.resumed import same, snapshot, through_a_file
from tests.helpers.runs import our_step

AUTO: dict[str, Any] = {"recipe": "auto", "total_steps": 60, "rms_cap": 0.01, "d0": 1e-3, "weight_decay": 0.01}
STEPS = 40
Gradients = Callable[..., list[Tensor | None]]


class Both:
    """Our optimizer and the oracle, each on its own parameters."""

    def __init__(self, groups: list[dict[str, Any]] | None = None, **options: Any) -> None:
        self.problem = Problem()
        self.xs, param_groups = grouped(self.problem.starts, groups)
        ours = {**AUTO, **options}
        self.optimizer = dd.Prodigy(param_groups, **ours)
        frozen = {"freeze_after": options["freeze_after"]} if "freeze_after" in options else {}
        known = {k: v for k, v in of_oracle(ours).items() if k in ORACLES["prodigy"].defaults or k in Oracle.shared}
        self.oracle: Oracle = ORACLES["prodigy"](self.problem.starts, groups, **known, **frozen)

    def steps(self, first: int, number: int, gradients: Gradients | None = None) -> "Both":
        gradients = gradients or self.problem.gradients
        for step in range(first, first + number):
            our_step(self.optimizer, self.xs, gradients(step, self.xs))
            self.oracle.step(gradients(step, self.oracle.params))
            self.check()
        return self

    def check(self) -> None:
        for group in self.optimizer.param_groups:
            assert float(group["d"]) == pytest.approx(self.oracle.ds[group["estimate"]], rel=1e-10)
        error = flat(self.xs) - flat(self.oracle.params)
        assert error.norm() <= 1e-10 * flat(self.oracle.params).norm()

    def moved(self) -> bool:
        """Has d grown, and has the cap held some step back?"""
        rms = self.optimizer.step_size._rms
        assert rms is not None
        return max(self.oracle.ds.values()) > 1.2e-3 and bool((rms.now() * 0.01 < max(self.oracle.ds.values())).any())


GROUPS: dict[str, list[dict[str, Any]] | None] = {
    "one": None,
    "two lrs": [{"indices": [0, 3]}, {"indices": [2, 1], "lr": 0.3}],
    "lr 0": [{"indices": [0, 3]}, {"indices": [2, 1], "lr": 0.0}],
    "estimates": [{"indices": [0, 3]}, {"indices": [2, 1], "estimate": "rest", "total_steps": 25}],
    "caps": [{"indices": [0, 3], "rms_cap": 0.3}, {"indices": [2, 1], "layer_scale": 0.5, "eps": 1e-4}],
}


@pytest.mark.slow
@pytest.mark.parametrize("groups", GROUPS)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"slice_p": 3},
        {"total_steps": None, "sync": "step"},
        {"betas": (0.0, 0.99), "decouple": False},
        {"freeze_after": 12},
        {"recipe": None, "exact_bias_correction": True},
        {"recipe": None, "same_weights": True, "growth_rate": 1.2},
        {"recipe": None, "use_bias_correction": True, "safeguard_warmup": True, "d_coef": 4.0},
        {"nonfinite": "skip"},
        {"maximize": True},
        {"total_steps": 1800},
        {"estimates": ["default", "rest"]},
    ],
    ids=str,
)
def test_a_run_follows_the_oracle(groups: str, options: dict[str, Any]) -> None:
    if groups == "estimates" and options.get("total_steps", 1) is None:
        pytest.skip("estimates decay all or none")
    both = Both(GROUPS[groups], **options).steps(0, STEPS)
    assert both.moved() or options.get("maximize")


def test_tensors_without_a_gradient_in_some_steps() -> None:
    both = Both()
    assert both.steps(0, STEPS, with_gaps(both.problem.gradients)).moved()


def test_steps_with_gradients_that_are_not_finite() -> None:
    """The elements with finite gradients train, and the decay goes on, as ever with nonfinite="hold"."""
    both = Both()

    def spoiled(step: int, xs: Any) -> list[Tensor | None]:
        found = both.problem.gradients(step, xs)
        if step in (3, 11):
            assert found[2] is not None
            found[2][0, 1] = float("nan")
        return found

    assert both.steps(0, STEPS, spoiled).moved()
    assert both.optimizer.step_size.held_steps == 2


@pytest.mark.parametrize("nonfinite", ["skip", "raise"])
def test_a_step_that_is_left_out_counts_for_nothing(nonfinite: Any) -> None:
    both = Both(nonfinite=nonfinite)
    both.steps(0, 10)
    before, rms = [x.detach().clone() for x in both.xs], both.optimizer.step_size._rms
    assert rms is not None
    total = rms.total.clone()
    bad = [torch.full_like(x, float("inf")) for x in both.xs]
    if nonfinite == "raise":
        with pytest.raises(dd.NonFiniteError):
            our_step(both.optimizer, both.xs, bad)
    else:
        our_step(both.optimizer, both.xs, bad)
    assert same([x.detach() for x in both.xs], before)
    assert torch.equal(rms.total, total)
    both.steps(10, 20)


def test_a_group_that_is_added_later_and_one_that_is_thawed() -> None:
    """Their sizes are those of the whole tensors from their first step on."""
    groups: list[dict[str, Any]] = [{"indices": [0]}, {"indices": [1]}, {"indices": [2, 3]}]
    both = Both(groups)
    late = both.optimizer.param_groups.pop()
    both.optimizer = dd.Prodigy(both.optimizer.param_groups, **AUTO)
    both.xs[0].requires_grad_(False)
    for step in range(STEPS):
        if step == 6:
            both.optimizer.add_param_group({"params": late["params"]})
        if step == 9:
            both.xs[0].requires_grad_(True)
        trains = (step >= 9, True, step >= 6, step >= 6)

        def of(found: list[Tensor | None], trains: tuple[bool, ...] = trains) -> list[Tensor | None]:
            return [g if there else None for g, there in zip(found, trains, strict=True)]

        our_step(both.optimizer, both.xs, of(both.problem.gradients(step, both.xs)))
        both.oracle.step(of(both.problem.gradients(step, both.oracle.params)))
        both.check()
    assert both.moved()


def test_a_schedule_ends_and_nothing_moves_any_more() -> None:
    both = Both(total_steps=12)
    both.steps(0, 12)
    rates = both.optimizer.param_groups
    before = [x.detach().clone() for x in both.xs]
    for step in range(12, 16):
        both.steps(step, 1)
        assert same([x.detach() for x in both.xs], before), "weights moved after the end of the schedule"
        assert float(rates[0]["updates"]) == step + 1
    assert both.moved()


def test_a_user_lr_multiplies_the_decay_and_pauses_it() -> None:
    """lr 0 in all groups is a pause: the decay counts the steps in which something could move."""
    both = Both(total_steps=30)
    for step in range(STEPS):
        lr = 0.0 if step % 4 == 1 else 0.5 + step / 100
        both.oracle.set_lr(lr)
        for group in both.optimizer.param_groups:
            group["lr"] = lr
        both.steps(step, 1)
    assert float(both.optimizer.param_groups[0]["updates"]) == 30
    assert both.moved()


def test_an_estimate_for_each_tensor() -> None:
    problem = Problem()
    xs, groups = grouped(problem.starts, None)
    optimizer = dd.Prodigy(groups, estimates="per_tensor", **AUTO)
    oracles = [ORACLES["prodigy"]([start], **of_oracle(AUTO)) for start in problem.starts]
    for step in range(STEPS):
        our_step(optimizer, xs, problem.gradients(step, xs))
        found = problem.gradients(step, [oracle.params[0] for oracle in oracles])
        for oracle, g in zip(oracles, found, strict=True):
            oracle.step([g])
        assert isinstance(optimizer.d, dict)
        assert [*optimizer.d.values()] == pytest.approx([oracle.d for oracle in oracles], rel=1e-10)
    for x, oracle in zip(xs, oracles, strict=True):
        assert (x.detach() - oracle.params[0]).norm() <= 1e-10 * oracle.params[0].norm()


@pytest.mark.parametrize("windows", [True, False])
def test_two_optimizers_of_which_one_is_hardly_capped(windows: bool) -> None:
    both = Both([{"indices": [0, 1]}, {"indices": [2, 3], "rms_cap": 100.0}])
    step_size = dd.StepSize()
    one = dd.Prodigy(both.xs[:2], step_size=step_size, **AUTO)
    two = dd.Prodigy(both.xs[2:], step_size=step_size, **{**AUTO, "rms_cap": 100.0})
    for step in range(STEPS):
        for x, g in zip(both.xs, both.problem.gradients(step, both.xs), strict=True):
            x.grad = g
        if windows:
            with step_size.window():
                for optimizer in (one, two):
                    optimizer.step()
        else:
            one.step()
            two.step()
        both.oracle.step(both.problem.gradients(step, both.oracle.params))
        assert step_size.d == pytest.approx(both.oracle.d, rel=1e-10)
    assert (flat(both.xs) - flat(both.oracle.params)).norm() <= 1e-10 * flat(both.oracle.params).norm()


@pytest.mark.parametrize("set_by", ["set_d", "group"])
def test_d_that_is_set_by_hand_goes_on(set_by: str) -> None:
    both = Both()
    both.steps(0, 8)
    for value in (3e-3, 1e-3):
        if set_by == "group":
            both.optimizer.param_groups[0]["d"] = value
        else:
            both.optimizer.step_size.set_d(value)
        assert both.optimizer.d == value
        before = float(both.optimizer.param_groups[0]["weight_m"])
        our_step(both.optimizer, both.xs, both.problem.gradients(8, both.xs))
        after = float(both.optimizer.param_groups[0]["weight_m"])
        assert after == pytest.approx(0.8 * before + 0.2 * value, rel=1e-14)
        assert all(bool(torch.isfinite(x).all()) for x in both.xs)


@pytest.mark.parametrize("backend", ["eager", "auto"])
def test_a_compiled_step_is_the_step(backend: Any) -> None:
    def trained(*, compiled: bool) -> Any:
        torch._dynamo.reset()
        problem = Problem()
        xs, groups = grouped([start.float() for start in problem.starts], None)
        optimizer = dd.Prodigy(groups, backend=backend, **AUTO)
        step = torch.compile(optimizer.step, backend="eager", fullgraph=True) if compiled else optimizer.step
        for number in range(8):
            for x, g in zip(xs, problem.gradients(number, [x.double() for x in xs]), strict=True):
                x.grad = None if g is None else g.float()
            step()
        return optimizer.d, [x.detach().clone() for x in xs], float(optimizer.param_groups[0]["updates"])

    assert same(list(trained(compiled=True)), list(trained(compiled=False)))


@pytest.mark.parametrize(
    "clone", [copy.deepcopy, lambda item: pickle.loads(pickle.dumps(item))], ids=["deepcopy", "pickle"]
)
def test_a_copy_goes_on_alone_like_the_original(clone: Callable[[Any], Any]) -> None:
    both = Both().steps(0, 9)
    optimizer, xs = clone((both.optimizer, both.xs))
    before = snapshot(both.optimizer)
    for step in range(9, 20):
        our_step(optimizer, xs, both.problem.gradients(step, xs))
    assert same(snapshot(both.optimizer), before)
    both.steps(9, 11)
    assert same(snapshot(optimizer), snapshot(both.optimizer))
    assert same([x.detach() for x in xs], [x.detach() for x in both.xs])


@pytest.mark.parametrize("kind", ["one", "pause", "estimates", "overflow"])
def test_a_step_makes_the_host_wait_for_nothing(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither for what it reads nor for numbers that it sends: here the plain loop is told that it runs on a device."""
    monkeypatch.setattr("dadapt_dist.kernels.eager.readable", lambda device: False)
    both = Both(GROUPS.get(kind), backend="eager")
    sent, original = [], torch.tensor

    def tensor(*args: Any, **kwargs: Any) -> Tensor:
        if kwargs.get("device") != "cpu":  # of which the library speaks by this word where it means the host
            sent.append(args)
        return original(*args, **kwargs)

    for step in range(6):
        for x, g in zip(both.xs, both.problem.gradients(step, both.xs), strict=True):
            x.grad = g
        if kind == "overflow":
            scaler: Any = both.optimizer
            scaler.grad_scale, scaler.found_inf = torch.ones(()), torch.full((), float(step == 4))
        if kind == "pause":
            both.optimizer.param_groups[0]["lr"] = float(step != 4)
        if step == 3:
            monkeypatch.setattr(torch, "tensor", tensor)
        with CountReads() as counter:
            both.optimizer.step()
        assert step < 3 or counter.count <= 2, "the flags that a step was held or apart, which lie on the host"
    assert not sent


# -------------------------------------------------------------------- checkpoints


def test_large_tensors_resume_to_the_bit_too() -> None:
    """Squares are measured anew after a load: block by block and in the order in which a step adds them up."""
    torch.manual_seed(0)
    start = torch.randn(700_001, dtype=torch.float64)

    def made() -> tuple[nn.Parameter, dd.Prodigy]:
        x = nn.Parameter(start.clone())
        return x, dd.Prodigy([x], **AUTO)

    def steps(x: nn.Parameter, optimizer: dd.Prodigy, first: int) -> None:
        for step in range(first, first + 2):
            x.grad = x.detach().sin() + step
            optimizer.step()

    (x, optimizer), (y, other) = made(), made()
    steps(x, optimizer, 0)
    with torch.no_grad():
        y.copy_(x)
    other.load_state_dict(through_a_file(optimizer.state_dict()))
    steps(x, optimizer, 2)
    steps(y, other, 2)
    assert torch.equal(x, y)
    assert same(snapshot(optimizer), snapshot(other))
    found = [one.step_size._rms for one in (optimizer, other)]
    assert found[0] is not None
    assert found[1] is not None
    assert torch.equal(found[0].total, found[1].total)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_a_square_is_measured_to_the_bit_as_a_step_adds_it_up(dtype: torch.dtype) -> None:
    """In C it is off by a rounding at most, which no coefficient in float32 shows."""
    for numel in (5, 70_001, 700_001):
        torch.manual_seed(numel)
        for backend in ("eager", "auto"):
            x = nn.Parameter(torch.randn(numel).to(dtype))
            optimizer = dd.Prodigy([x], backend=backend, **AUTO)
            x.grad = torch.randn(numel).to(dtype)
            optimizer.step()
            rms = optimizer.step_size._rms
            assert rms is not None
            found, right = float(rms.local[0]), float(sum_of_squares(x.detach()))
            assert found == (right if backend == "eager" else pytest.approx(right, rel=1e-15, abs=0))


def test_a_checkpoint_from_before_these_options_loads_into_an_optimizer_without_them() -> None:
    without: dict[str, Any] = {"recipe": None, "total_steps": None, "rms_cap": None}
    run, other = Both(**without), Both(**without)
    for step in range(6):
        our_step(run.optimizer, run.xs, run.problem.gradients(step, run.xs))
    saved = snapshot(run.optimizer)
    for group in saved["param_groups"]:
        assert "updates" not in group
        assert not METHODS["prodigy"].options.later() & group.keys()
    with torch.no_grad():
        for x, weight in zip(other.xs, run.xs, strict=True):
            x.copy_(weight)
    other.optimizer.load_state_dict(through_a_file(saved))
    for one in (run, other):
        for step in range(6, 12):
            our_step(one.optimizer, one.xs, one.problem.gradients(step, one.xs))
    assert same([x.detach() for x in other.xs], [x.detach() for x in run.xs])
    assert other.optimizer.d == run.optimizer.d
    with pytest.raises(ValueError, match=r"recipe=None.*recipe='auto'"):
        Both().optimizer.load_state_dict(saved)


def test_the_weights_of_a_checkpoint_that_lacks_them_are_those_of_a_d_that_did_not_change() -> None:
    w = nn.Parameter(torch.ones(4))
    optimizer = dd.Prodigy([w], d0=1e-3, d_coef=1e-9)
    for _ in range(5):
        w.grad = torch.ones_like(w)
        optimizer.step()
    saved = snapshot(optimizer)
    rate, group = optimizer.adamw_lr, saved["param_groups"][0]
    assert not {"weight_m", "weight_v"} & group.keys()
    other = dd.Prodigy([nn.Parameter(w.detach().clone())], d0=1e-3, d_coef=1e-9)
    other.load_state_dict(saved)
    assert rate is not None
    assert other.adamw_lr == pytest.approx(rate, rel=1e-12)


CHANGED: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    ({}, {"total_steps": 61}, "total_steps=60.*total_steps=61"),
    ({}, {"total_steps": None}, "total_steps=60.*total_steps=None"),
    ({"total_steps": None}, {}, "total_steps=None.*total_steps=60"),
    ({}, {"recipe": None}, "recipe='auto'.*recipe=None"),
    ({"recipe": None, "total_steps": None}, {"total_steps": None}, "recipe=None.*recipe='auto'"),
    ({"recipe": None}, {"recipe": None, "same_weights": True}, "same_weights=None.*same_weights=True"),
    ({"recipe": None}, {"recipe": None, "exact_bias_correction": True}, "exact_bias_correction"),
    ({"recipe": None}, {"recipe": None, "length_scaling": True}, "length_scaling"),
]


@pytest.mark.parametrize(("saved", "loads", "says"), CHANGED, ids=str)
def test_a_checkpoint_of_another_run_is_one_clear_error_and_changes_nothing(
    saved: dict[str, Any], loads: dict[str, Any], says: str
) -> None:
    checkpoint = Both(**saved).steps(0, 4).optimizer.state_dict()
    other = Both(**loads).steps(0, 2)
    before = snapshot(other.optimizer)
    with pytest.raises(ValueError, match=says) as caught:
        other.optimizer.load_state_dict(checkpoint)
    assert "Build the optimizer with" in str(caught.value)
    assert same(snapshot(other.optimizer), before)
    other.steps(2, 3)


def test_groups_that_are_replaced_by_those_of_another_run_are_refused() -> None:
    both = Both().steps(0, 4)
    groups = both.optimizer.param_groups
    both.optimizer.param_groups = [{**groups[0], "total_steps": 7}]
    with pytest.raises(ValueError, match=r"total_steps=7.*total_steps=60"):
        our_step(both.optimizer, both.xs, both.problem.gradients(4, both.xs))
    both.optimizer.param_groups = groups
    both.steps(4, 3)


def test_a_checkpoint_that_contradicts_itself_is_refused() -> None:
    checkpoint, other = Both().steps(0, 2).optimizer.state_dict(), Both().steps(0, 2)
    checkpoint["param_groups"][0]["use_bias_correction"] = True
    before = snapshot(other.optimizer)
    with pytest.raises(ValueError, match=r"group 0 of the checkpoint.*contradict"):
        other.optimizer.load_state_dict(checkpoint)
    assert same(snapshot(other.optimizer), before)


# -------------------------------------------------------------------- options

BAD: list[tuple[dict[str, Any], str]] = [
    *(({"recipe": value}, "recipe=.*must be None or 'auto'") for value in ("best", "AUTO", "", 1, True)),
    *(({"total_steps": value}, "total_steps=.*must be None or an integer >= 1") for value in (0, -3, 1.5, "x", True, 2**60)),
    *(({"rms_cap": value}, "rms_cap=.*must be None or a number > 0") for value in (0, -1, float("inf"), float("nan"), "x", True)),
    ({"exact_bias_correction": 1}, "exact_bias_correction=1.*True or False"),
    ({"length_scaling": 0.5}, "length_scaling=0.5.*True or False"),
    ({"recipe": None, "total_steps": None, "length_scaling": True}, "length_scaling=True needs the length.*Pass total_steps"),
    ({"same_weights": "yes"}, "same_weights='yes'.*True or False"),
    ({"use_bias_correction": True}, "recipe='auto' and use_bias_correction=True contradict"),
    ({"safeguard_warmup": True}, "recipe='auto' and safeguard_warmup=True contradict"),
    ({"exact_bias_correction": False}, "recipe='auto' and exact_bias_correction=False contradict"),
    ({"same_weights": False}, "recipe='auto' and same_weights=False contradict"),
    ({"probe_d0": True, "total_steps": 5}, "probe_d0=True takes 3 steps.*total_steps=5"),
    ({"probe_d0": True, "slice_p": 3}, "probe_d0=True.*slice_p=3"),
    ({"recipe": None, "exact_bias_correction": True, "use_bias_correction": True}, "contradict each other"),
]  # fmt: skip


@pytest.mark.parametrize(("options", "says"), BAD, ids=str)
def test_options_that_cannot_be_right(options: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says) as caught:
        Both(**options)
    assert len(str(caught.value).split(". ")) >= 2, "the cure is missing"
    both = Both(total_steps=60).steps(0, 2)
    more = nn.Parameter(torch.ones(2, dtype=torch.float64))
    with pytest.raises(ValueError, match="contradict|differ in recipe" if "contradict" in says else says):
        both.optimizer.add_param_group({"params": [more], **options})
    both.steps(2, 2)


@pytest.mark.parametrize(
    "own",
    [
        {"total_steps": 61},
        {"total_steps": None},
        {"recipe": None, "exact_bias_correction": False},
        {"betas": (0.7, 0.999)},
    ],
    ids=str,
)
def test_groups_of_one_estimate_that_differ(own: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=rf"differ in ({'|'.join(own)}).*give both groups the same"):
        Both([{"indices": [0, 1]}, {"indices": [2, 3], **own}])
    step_size, params = dd.StepSize(), [nn.Parameter(torch.ones(2)) for _ in range(2)]
    first = dd.Prodigy(params[:1], step_size=step_size, **AUTO)
    with pytest.raises(ValueError, match="differ in"):
        dd.Prodigy(params[1:], step_size=step_size, **{**AUTO, **own})
    for p in params:
        p.grad = torch.ones(2)
    first.step()


def test_estimates_that_would_keep_other_scalars_are_refused() -> None:
    groups: list[dict[str, Any]] = [{"indices": [0, 1], "total_steps": 9}, {"indices": [2, 3], "estimate": "rest"}]
    for declared in (None, ["default", "rest"]):
        with pytest.raises(ValueError, match=r"'rest' would keep other scalars.*updates.*optimizer of their own"):
            Both(groups, recipe=None, total_steps=None, estimates=declared)


def test_what_is_given_beside_the_recipe_holds() -> None:
    params = [nn.Parameter(torch.ones(3, dtype=torch.float64)) for _ in range(2)]
    off = {"probe_d0": False, "length_scaling": False}
    optimizer = dd.Prodigy(params[:1], recipe="auto", total_steps=2000, **off)
    assert [optimizer.param_groups[0][name] for name in off] == [False, False]
    assert "probe_step" not in optimizer.param_groups[0]
    optimizer.add_param_group({"params": params[1:]})
    assert [optimizer.param_groups[1][name] for name in off] == [False, False]
    copy.deepcopy(optimizer).load_state_dict(through_a_file(optimizer.state_dict()))
    given = dd.Prodigy(params, recipe="auto", total_steps=2000, probe_d0=True, d0=1e-4)
    assert given.param_groups[0]["probe_d0"]
    assert given.param_groups[0]["betas"] == (0.8, 0.999)
    assert dd.Prodigy(params, recipe="auto", betas=(0.95, 0.99)).param_groups[0]["betas"] == (0.95, 0.99)
    assert dd.Prodigy(params).param_groups[0]["betas"] == (0.9, 0.999)
    plain = dd.Prodigy(params, **off, exact_bias_correction=False, same_weights=False)
    assert not {*off, "exact_bias_correction", "same_weights"} & {*plain.param_groups[0]}
    with pytest.raises(ValueError, match="has probe_d0=False, and the optimizer probe_d0=True"):
        dd.Prodigy(params, recipe="auto", total_steps=2000).load_state_dict(
            dd.Prodigy(params, recipe="auto", total_steps=2000, probe_d0=False).state_dict()
        )


def test_declared_estimates_take_the_recipe_that_only_their_groups_name() -> None:
    params = [nn.Parameter(torch.ones(3, dtype=torch.float64)) for _ in range(2)]
    groups = [
        {"params": [p], "recipe": "auto", "total_steps": 9, "estimate": e} for p, e in zip(params, "ab", strict=True)
    ]
    optimizer = dd.Prodigy(groups, step_size=dd.StepSize(estimates=["a", "b"]))
    for p in params:
        p.grad = torch.ones_like(p)
    optimizer.step()
    assert [float(group["updates"]) for group in optimizer.param_groups] == [1, 1]


IN_MID_RUN: list[tuple[dict[str, Any], dict[str, Any]]] = [
    *(({"recipe": None, "total_steps": None, "rms_cap": None}, change) for change in (
        {"recipe": "auto"}, {"total_steps": 60}, {"rms_cap": 0.1}, {"exact_bias_correction": True}, {"same_weights": True},
    )),
    *(({}, change) for change in (
        {"recipe": None}, {"total_steps": 61}, {"total_steps": None}, {"exact_bias_correction": False},
        {"same_weights": False}, {"length_scaling": False},
        {"use_bias_correction": True}, {"safeguard_warmup": True}, {"total_steps": 1.5},
    )),
]  # fmt: skip


@pytest.mark.parametrize(("options", "change"), IN_MID_RUN, ids=str)
def test_what_is_changed_in_mid_run_raises_before_anything_moves(
    options: dict[str, Any], change: dict[str, Any]
) -> None:
    both = Both(**options).steps(0, 3)
    group = both.optimizer.param_groups[0]
    old, before = dict(group), snapshot(both.optimizer)
    group.update(change)
    for _ in range(2):
        with pytest.raises(ValueError, match=next(iter(change))):
            our_step(both.optimizer, both.xs, both.problem.gradients(3, both.xs))
    group.clear()
    group.update(old)
    assert same(snapshot(both.optimizer), before)
    both.steps(3, 3)


def test_a_cap_that_changes_or_ends_in_mid_run_acts_at_once() -> None:
    both = Both().steps(0, 6)
    for step, cap in ((6, 1e-3), (9, None), (12, 0.05)):
        both.optimizer.param_groups[0]["rms_cap"] = cap
        both.oracle.groups[0]["rms_cap"] = cap
        both.steps(step, 3)


def test_sizes_of_frozen_and_of_meta_tensors() -> None:
    """A frozen tensor on the meta device or of integers has no size that could be measured, and needs none."""
    params = [
        nn.Parameter(torch.full((5,), 2.0)),
        nn.Parameter(torch.ones(4, 3), requires_grad=False),
        nn.Parameter(torch.empty(4, device="meta"), requires_grad=False),
        nn.Parameter(torch.ones(3, dtype=torch.int8), requires_grad=False),
    ]
    optimizer = dd.Prodigy(params, **AUTO)
    params[0].grad = torch.ones(5)
    optimizer.step()
    rms = optimizer.step_size._rms
    assert isinstance(rms, TensorRms)
    assert rms.now().tolist() == pytest.approx([2.0, 1.0, 0.0, 0.0], rel=1e-3)


class Shards:
    """Two tensors of the model, of which the first is swapped out, as NVMe offload leaves it between the steps."""

    n_tensors = 2

    def __init__(self, params: list[Tensor]) -> None:
        self.params = params

    def parts(self, p: Tensor) -> list[tuple[LocalShard, float]]:
        return [
            (LocalShard(tensor_key="zero", num_shards=1, shard_id="0", global_numel=4, flat_slice=slice(0, 4)), 1.0)
        ]

    def runs(self, p: Tensor) -> list[tuple[tuple[int, int, int], ...]]:
        return [((next(i for i, q in enumerate(self.params) if q is p), 0, 4),)]


def test_a_tensor_that_is_swapped_out_has_no_bound_for_a_step_which_is_said(
    library_log: pytest.LogCaptureFixture,
) -> None:
    params = [nn.Parameter(torch.empty(0)), nn.Parameter(torch.full((4,), 3.0))]
    shards: Any = Shards(params)  # type: ignore[arg-type]
    rms = TensorRms(shards, params, torch.device("cpu"), ShardLayout(), slice(3, 5), 20)
    assert library_log.text.count("1 parameters are swapped out (NVMe)") == 1
    assert [str(value) for value in rms.now().tolist()] == ["nan", "3.0"]
    method, scalars = METHODS["prodigy"](), {"d": torch.tensor(1e3), "k": torch.tensor(0.0)}
    options = dict(dd.Prodigy([nn.Parameter(torch.ones(1))], rms_cap=0.1).defaults)
    factors = method.tensor_factors(rms.now(), options, scalars, method.constants(options))
    assert factors.tolist() == pytest.approx([1.0, 0.3 / 1e3])
    rms.take(torch.tensor([16.0, float("nan")], dtype=torch.float64))
    assert rms.now().tolist() == [2.0, 3.0]


class Word(str):
    """A string as configuration libraries have them."""


@pytest.mark.parametrize("total", [9, 9.0, np.int64(9), np.float32(9), torch.tensor(9), np.array(9)], ids=repr)
@pytest.mark.parametrize("word", ["auto", Word("auto"), np.str_("auto")], ids=lambda word: type(word).__name__)
def test_values_of_configuration_libraries_become_plain_ones(total: Any, word: Any) -> None:
    optimizer = dd.Prodigy([nn.Parameter(torch.ones(3))], recipe=word, total_steps=total, rms_cap=np.float32(0.25))
    group = optimizer.param_groups[0]
    assert [(type(group[name]), group[name]) for name in ("recipe", "total_steps", "rms_cap")] == [
        (str, "auto"), (int, 9), (float, 0.25),
    ]  # fmt: skip
    through_a_file(optimizer.state_dict())
