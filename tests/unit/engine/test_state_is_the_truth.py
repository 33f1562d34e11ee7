"""Check that the contents of the state decide, not the objects that hold it, e.g. after parameters were replaced."""

import copy
import pickle
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import dadapt_dist as dd
from dadapt_dist.methods import METHODS
from tests.helpers.classes import ALL, WITH_D, first_d, make
from tests.helpers.oracles import ORACLES
from tests.helpers.resumed import same, snapshot, through_a_file

OPTIONS: dict[str, Any] = {"d0": 1e-3}
X0 = {"prodigy": "p0", "dadapt_sgd": "x0", "dadapt_adagrad": "x0"}
TARGET = torch.linspace(-3, 3, 60, dtype=torch.float64).view(20, 3)


def points(rows: int = 8) -> nn.Parameter:
    return nn.Parameter(torch.randn(rows, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64))


def optimizer_of(key: str, params: Any, **options: Any) -> dd.LearningRateFree:
    return make(key, params, OPTIONS["d0"], **options)


def gradient(x: Tensor) -> Tensor:
    return x.detach() - TARGET[: len(x)]


def step(optimizer: Any, *params: Tensor) -> float:
    for x in params:
        x.grad = gradient(x)
    optimizer.step()
    return float(optimizer.param_groups[0].get("d", 0.0))


def replace(optimizer: Any, old: Tensor, new: nn.Parameter, change: Callable[[Tensor], Tensor] = lambda t: t) -> None:
    """As Gaussian splatting does: another parameter, and the old one's state, each entry changed, becomes its."""
    state = optimizer.state.pop(old)
    optimizer.state[new] = {name: change(t) for name, t in state.items()}
    for group in optimizer.param_groups:
        group["params"] = [new if p is old else p for p in group["params"]]


# -------------------------------------------------------------------- parameters that are replaced


@pytest.mark.parametrize("key", ALL)
def test_points_are_added_and_removed_as_the_oracle_says(key: str) -> None:
    x = points()
    optimizer = optimizer_of(key, [{"params": [x], "name": "means"}])
    oracle = ORACLES[key]([x], **first_d(key, OPTIONS["d0"]))
    changes: dict[int, Callable[[Tensor], Tensor]] = {
        6: lambda t: t,
        9: lambda t: torch.cat([t, t[2:5] * 0.5]),  # three rows more
        13: lambda t: t[torch.arange(len(t)) % 4 != 1],
        14: lambda t: torch.cat([t, t[:1]]),
    }
    ds = []
    for k in range(30):
        if k in changes:
            change = changes[k]
            new = nn.Parameter(change(x.detach()).clone())
            replace(optimizer, x, new, change)
            x = new
            oracle.params[0] = change(oracle.params[0]).clone()
            state = oracle.states[0]
            state.update({n: change(t).clone() for n, t in state.items() if isinstance(t, Tensor) and t.dim() == 2})
            if key in ("prodigy", "prodigy_schedule_free"):  # kept flat
                state.update({n: change(t.view(-1, 3)).flatten() for n, t in state.items() if t.dim() == 1})
        ds.append(step(optimizer, x))
        oracle.step([oracle.params[0] - TARGET[: len(x)]])
        assert key not in WITH_D or ds[-1] == pytest.approx(oracle.ds["default"], rel=1e-9), k
        assert torch.allclose(x, oracle.params[0], rtol=1e-9, atol=1e-12), k
    assert key not in WITH_D or ds[-1] > 1.1 * ds[5] > 1.1 * ds[0]


def by_new_object(optimizer: Any, x: nn.Parameter) -> nn.Parameter:
    new = nn.Parameter(x.detach().clone())
    replace(optimizer, x, new)
    return new


def by_new_tensors(optimizer: Any, x: nn.Parameter) -> nn.Parameter:
    replace(optimizer, x, x, torch.clone)
    return x


def by_swap(optimizer: Any, x: nn.Parameter) -> nn.Parameter:
    torch.utils.swap_tensors(x, nn.Parameter(x.detach().clone()))
    return x


def by_setstate(optimizer: Any, x: nn.Parameter) -> nn.Parameter:
    state = defaultdict(dict, {x: {name: t.clone() for name, t in optimizer.state[x].items()}})
    optimizer.__setstate__({"state": state, "param_groups": [dict(group) for group in optimizer.param_groups]})
    return x


def by_groups(optimizer: Any, x: nn.Parameter) -> nn.Parameter:
    optimizer.param_groups = [{**group, "params": [x]} for group in optimizer.param_groups]
    return x


def by_slice(optimizer: Any, x: nn.Parameter) -> nn.Parameter:
    new = by_new_object(optimizer, x)
    optimizer.param_groups[:] = [{**group, "params": [new]} for group in optimizer.param_groups]
    return new


WAYS = [by_new_object, by_new_tensors, by_swap, by_setstate, by_groups, by_slice]


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
@pytest.mark.parametrize("key", ALL)
def test_a_parameter_with_its_state_goes_on_bit_for_bit_however_it_was_replaced(
    key: str, way: Callable[..., nn.Parameter], library_log: pytest.LogCaptureFixture
) -> None:
    one, x = points(), points()
    undisturbed, optimizer = optimizer_of(key, [one]), optimizer_of(key, [x])
    for k in range(16):
        if k in (3, 8):
            x = way(optimizer, x)
        assert step(optimizer, x) == step(undisturbed, one), k
    assert torch.equal(x, one)
    assert key not in WITH_D or optimizer.d > OPTIONS["d0"]
    assert same(snapshot(optimizer), snapshot(undisturbed))
    assert not library_log.messages


@pytest.mark.parametrize("key", sorted(X0))
def test_state_made_by_a_dummy_step_follows_weights_that_come_later_also_to_another_parameter(key: str) -> None:
    x = points()
    optimizer = optimizer_of(key, [x], lr=0.0)
    step(optimizer, x)
    optimizer.param_groups[0]["lr"] = 1.0
    new = nn.Parameter(x.detach() + 1)
    replace(optimizer, x, new)
    start = new.detach().clone()
    step(optimizer, new)
    assert torch.equal(optimizer.state[new][X0[key]].view_as(start), start)
    assert not torch.equal(new, start)
    assert not optimizer._unmoved


def test_state_loaded_key_by_key_keeps_its_x0() -> None:
    whole, x = points(), points()
    first, other = optimizer_of("prodigy", [whole]), optimizer_of("prodigy", [x])
    for _ in range(6):
        step(first, whole)
    saved = snapshot(first)
    with torch.no_grad():
        x.copy_(whole)
    other.state[x] = saved["state"][0]
    for name, value in saved["param_groups"][0].items():
        if name != "params":
            other.param_groups[0][name] = value
    for _ in range(6):
        assert step(other, x) == step(first, whole)
    assert first.d > 2e-3


def test_sliced_buffers_loaded_key_by_key_in_the_form_of_a_checkpoint_are_cut_again() -> None:
    whole, x = points(), points()
    first, other = (optimizer_of("prodigy", [p], slice_p=4) for p in (whole, x))
    for _ in range(6):
        step(first, whole)
    saved = snapshot(first)
    with torch.no_grad():
        x.copy_(whole)
    other.state[x] = saved["state"][0]
    for name in ("d", "d_max", "numerator", "k", "steps"):
        other.param_groups[0][name] = saved["param_groups"][0][name]
    assert same(snapshot(other), snapshot(first))
    for _ in range(6):
        assert step(other, x) == step(first, whole)
    assert other.state[x]["s"].shape == (6,)


@pytest.mark.parametrize("all_of_it", [True, False], ids=["clear", "pop"])
def test_removed_state_starts_afresh_from_the_present_weights_and_says_so(
    all_of_it: bool, library_log: pytest.LogCaptureFixture
) -> None:
    x, other = points(), points()
    optimizer = optimizer_of("prodigy", [x, other])
    for _ in range(5):
        step(optimizer, x, other)
    assert not library_log.messages
    optimizer.state.clear() if all_of_it else optimizer.state.pop(x)
    now, d = x.detach().clone(), optimizer.d
    step(optimizer, x, other)
    assert torch.equal(optimizer.state[x]["p0"], now)
    assert optimizer.d >= d
    removed = 2 if all_of_it else 1
    assert library_log.messages == [f"the state of {removed} parameters was removed: they start afresh in step 5"]


def test_state_left_behind_by_a_replaced_parameter_is_told_and_not_saved(library_log: pytest.LogCaptureFixture) -> None:
    x = points()
    optimizer = optimizer_of("prodigy", [x])
    step(optimizer, x)
    new = nn.Parameter(x.detach().clone())
    optimizer.param_groups[0]["params"] = [new]
    step(optimizer, new)
    assert ["optimizer.state[new] = optimizer.state.pop(old)" in message for message in library_log.messages] == [True]
    with pytest.raises(ValueError, match=r"shape \(8, 3\).*none of the parameter groups.*pop"):
        optimizer.state_dict()


def test_state_of_which_a_part_is_missing_is_refused_and_momentum_that_was_turned_on_is_added() -> None:
    x = points()
    optimizer = optimizer_of("prodigy", [x], betas=(0.0, 0.999))
    step(optimizer, x)
    optimizer.param_groups[0]["betas"] = (0.9, 0.999)
    optimizer.state[x] = dict(optimizer.state[x])
    step(optimizer, x)
    assert optimizer.state[x]["exp_avg"].any()
    del optimizer.state[x]["s"]
    weights = x.detach().clone()
    with pytest.raises(ValueError, match=r"has exp_avg, exp_avg_sq, p0 and lacks s, .*optimizer.state.pop"):
        step(optimizer, x)
    assert torch.equal(x, weights)


# -------------------------------------------------------------------- groups that are replaced


def test_groups_of_plain_dicts_hold_live_scalars_afterwards() -> None:
    x = points()
    optimizer = optimizer_of("prodigy", [x])
    step(optimizer, x)
    optimizer.param_groups = [{"params": [x], "lr": 0.5}]
    d = step(optimizer, x)
    assert float(optimizer.param_groups[0]["d"]) == optimizer.d == d > OPTIONS["d0"]
    assert optimizer.param_groups[0]["lr"] == 0.5
    assert optimizer.state_dict()["param_groups"][0]["d"] == d
    optimizer.param_groups[0]["d"] = 0.5
    assert optimizer.d == 0.5


WAYS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "assigned": lambda group: group.__setitem__("d", 0.5),
    "a tensor": lambda group: group.__setitem__("d", torch.tensor(0.5)),
    "updated": lambda group: group.update(d=0.5),
    "or": lambda group: group.__ior__({"d": 0.5}),
    "removed before": lambda group: (group.pop("d"), group.setdefault("d", 0.5)),
    "in place": lambda group: group["d"].fill_(0.5),
    "set_d": lambda group: None,
}


@pytest.mark.parametrize("read_first", [True, False])
@pytest.mark.parametrize("steps", [0, 3])
@pytest.mark.parametrize("how", WAYS)
def test_a_scalar_given_to_a_group_is_set_in_whatever_way_and_the_view_is_back(
    how: str, steps: int, read_first: bool
) -> None:
    x, y = points(), points()
    optimizer, other = optimizer_of("dadapt_adam", [x]), optimizer_of("dadapt_adam", [y])
    for _ in range(steps):
        step(optimizer, x)
        step(other, y)
    group = optimizer.param_groups[0]
    view = group["d"]
    WAYS[how](group)
    if how == "set_d":
        optimizer.set_d(0.5)
    other.set_d(0.5)
    if read_first:
        assert optimizer.d == optimizer.step_size.d == 0.5
        assert group["d"] is view
    assert step(optimizer, x) == step(other, y)
    assert group["d"] is view
    assert float(view) == optimizer.d >= 0.5
    assert torch.equal(x, y)
    assert same(snapshot(optimizer), snapshot(other))
    assert group.setdefault("mine", 3) == group["mine"] == 3


@pytest.mark.parametrize("name", ["d", "d_max", "numerator", "k", "held", "steps"])
def test_every_scalar_can_be_given_and_a_wrong_one_is_refused_before_anything_moves(name: str) -> None:
    x = points()
    optimizer = optimizer_of("prodigy", [x])
    for _ in range(3):
        step(optimizer, x)
    before, saved, group = x.detach().clone(), snapshot(optimizer), optimizer.param_groups[0]
    views = {key: group[key] for key in ("d", "d_max", "numerator", "k", "held", "steps")}
    for wrong in (float("nan"), "abc", -1e200, None, torch.ones(2)):
        group[name] = wrong
        with pytest.raises(ValueError, match=rf"{name}=.*must be .*\. \w"):
            step(optimizer, x)
        assert all(group[key] is view for key, view in views.items())
    group[name].fill_(-7)
    if name != "numerator":
        with pytest.raises(ValueError, match=rf"{name}=-7.*must be .*\. \w"):
            step(optimizer, x)
    else:
        assert optimizer.state_dict()["param_groups"][0][name] == -7
        group[name] = saved["param_groups"][0][name]
    assert torch.equal(x, before)
    assert same(snapshot(optimizer), saved)
    group[name] = 2
    assert optimizer.state_dict()["param_groups"][0][name] == 2
    assert all(group[key] is view for key, view in views.items())
    assert int(group["steps"]) == optimizer.step_size.steps


@pytest.mark.parametrize("freeze_after", [None, 2])
def test_a_scalar_written_in_the_middle_of_a_step_is_set_after_it_and_checked(freeze_after: int | None) -> None:
    x, y = points(), points()
    step_size = dd.StepSize(freeze_after=freeze_after)
    first, second = (optimizer_of("prodigy", [p], step_size=step_size) for p in (x, y))

    def both(between: Callable[[], Any] = lambda: None) -> None:
        for p in (x, y):
            p.grad = torch.ones_like(p)
        first.step()
        between()
        second.step()

    both()
    both()
    group, other = first.param_groups[0], second.param_groups[0]
    both(lambda: (group["d"].fill_(0.5), other["steps"].fill_(7)))
    assert first.d == second.d == float(group["d"]) == 0.5
    assert step_size.steps == int(other["steps"]) == 7
    both(lambda: group["d"].fill_(-1.0))
    with pytest.raises(ValueError, match=r"d=-1.*must be"):
        both()
    assert float(group["d"]) >= 0.5


def test_groups_of_one_estimate_that_are_given_different_values_are_refused() -> None:
    x, y = points(), points()
    optimizer = optimizer_of("prodigy", [{"params": [x]}, {"params": [y]}])
    d = step(optimizer, x, y)
    for group, value in zip(optimizer.param_groups, (0.5, 0.25), strict=True):
        group["d"] = value
    with pytest.raises(ValueError, match=r"different values of d: 0\.5 and 0\.25.*one of its groups, or the same"):
        step(optimizer, x, y)
    assert optimizer.d == d
    for group in optimizer.param_groups:
        group["d"] = 0.5
    step(optimizer, x, y)
    assert optimizer.d >= 0.5


def test_set_d_names_the_estimate_where_there_are_several() -> None:
    x, y = points(), points()
    optimizer = optimizer_of("prodigy", [{"params": [x], "estimate": "a"}, {"params": [y], "estimate": "b"}])
    optimizer.set_d(0.5, "b")
    assert optimizer.d == {"a": OPTIONS["d0"], "b": 0.5}
    with pytest.raises(ValueError, match=r"several estimates: name one.*a, b"):
        optimizer.set_d(0.5)
    with pytest.raises(ValueError, match=r"no estimate 'c'.*a, b"):
        optimizer.set_d(0.5, "c")
    assert optimizer.d == {"a": OPTIONS["d0"], "b": 0.5}


def test_a_parameter_appended_to_a_group_with_names_trains() -> None:
    x, more = points(), points(4)
    optimizer = optimizer_of("prodigy", [("x", x)])
    step(optimizer, x)
    optimizer.param_groups[0]["params"].append(more)
    start = more.detach().clone()
    step(optimizer, x, more)
    assert torch.equal(optimizer.state[more]["p0"], start)
    assert not torch.equal(more, start)


def test_groups_that_hold_another_d_set_it_and_say_so(library_log: pytest.LogCaptureFixture) -> None:
    x = points()
    optimizer = optimizer_of("dadapt_adam", [x])
    for _ in range(5):
        step(optimizer, x)
    early = copy.deepcopy(optimizer.param_groups)
    early[0]["params"] = [x]
    for _ in range(5):
        step(optimizer, x)
    assert optimizer.d > early[0]["d"]
    optimizer.param_groups = early
    saved = optimizer.state_dict()["param_groups"][0]
    assert (saved["d"], saved["k"], saved["steps"]) == (early[0]["d"], early[0]["k"], 5)
    assert optimizer.d == early[0]["d"]
    assert ["groups were replaced" in message for message in library_log.messages] == [True]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"d": -1.0}, "parameter group 0: d=-1.0"),
        ({"d": 2.0, "d_max": 1.0}, "d_max=1.0 is less than d=2.0"),
        ({"method": "dadapt_adam"}, "dadapt_adam"),
        ({"format": 99}, "newer dadapt-dist"),
        ({"betas": (0.9, 2.0)}, "betas"),
        ({"estimate": "vision"}, "'vision'.*default"),
    ],
    ids=lambda item: next(iter(item)) if isinstance(item, dict) else "",
)
def test_groups_that_cannot_be_right_are_refused_before_anything_moves(change: dict[str, Any], message: str) -> None:
    x = points()
    optimizer = optimizer_of("prodigy", [x])
    step(optimizer, x)
    weights, d = x.detach().clone(), optimizer.d
    optimizer.param_groups = [{**optimizer.param_groups[0], **change}]
    with pytest.raises(ValueError, match=message):
        step(optimizer, x)
    assert torch.equal(x, weights)
    assert optimizer.d == d


def test_a_group_added_after_a_load_takes_the_d_of_its_estimate() -> None:
    x, more = points(), points(4)
    first = optimizer_of("prodigy", [x])
    for _ in range(6):
        step(first, x)
    saved = through_a_file(first.state_dict())
    resumed = optimizer_of("prodigy", [x])
    with pytest.raises(ValueError, match=r"\[1\].*\[1, 1\].*Groups were added.*optimizer.add_param_group.*take the d"):
        optimizer_of("prodigy", [{"params": [x]}, {"params": [more]}]).load_state_dict(saved)
    with pytest.raises(ValueError, match=r"\[1\].*\[2\].*Parameters were added.*group of their own.*add_param_group"):
        optimizer_of("prodigy", [x, more]).load_state_dict(saved)
    resumed.load_state_dict(saved)
    resumed.add_param_group({**resumed.param_groups[0], "params": [more]})
    assert float(resumed.param_groups[1]["d"]) == first.d
    start = more.detach().clone()
    step(resumed, x, more)
    assert torch.equal(resumed.state[more]["p0"], start)


# -------------------------------------------------------------------- what others keep in the state


class ScheduleFree:
    """The calls of ScheduleFreeWrapper: its tensor z lies in the state before the first step, and p is z inside it."""

    momentum = 0.9

    def __init__(self, base: Any) -> None:
        self.base = base

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        groups: list[dict[str, Any]] = self.base.param_groups
        return groups

    def state_dict(self) -> dict[str, Any]:
        saved: dict[str, Any] = self.base.state_dict()
        return saved

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        self.base.load_state_dict(saved)

    def step(self) -> None:
        with torch.no_grad():
            self._step()

    def _step(self) -> None:
        params = [p for group in self.param_groups for p in group["params"]]
        for p in params:
            state = self.base.state[p]
            if "z" not in state:
                state["z"] = p.clone()
            p.lerp_(state["z"], 1 - 1 / self.momentum)
            self._swap(p, state["z"])
        self.base.step()
        for group in self.param_groups:
            largest = group["lr_max"] = max(group["lr"] * group.get("d", 1.0), group.get("lr_max", 0))
            group["weight_sum"] = group.get("weight_sum", 0.0) + largest**2
            for p in group["params"]:
                z = self.base.state[p]["z"]
                self._swap(p, z)
                p.lerp_(z, largest**2 / group["weight_sum"]).lerp_(z, 1 - self.momentum)

    @staticmethod
    def _swap(p: Tensor, z: Tensor) -> None:
        kept = p.clone()
        p.copy_(z)
        z.copy_(kept)


class Lookahead:
    """The calls of Lookahead: a slow copy in the state of the optimizer that it wraps, a counter in its groups."""

    def __init__(self, base: Any) -> None:
        self.base, self.state, self.param_groups = base, base.state, base.param_groups
        for group in self.param_groups:
            group.setdefault("counter", 0)

    def state_dict(self) -> dict[str, Any]:
        saved: dict[str, Any] = self.base.state_dict()
        return saved

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        self.base.load_state_dict(saved)
        self.state, self.param_groups = self.base.state, self.base.param_groups

    def step(self) -> None:
        for group in self.param_groups:
            for p in group["params"]:
                self.state[p].setdefault("slow_buffer", p.detach().clone())
        self.base.step()
        for group in self.param_groups:
            group["counter"] = (group["counter"] + 1) % 3
            for p in group["params"] if group["counter"] == 0 else []:
                slow = self.state[p]["slow_buffer"]
                slow.lerp_(p.detach(), 0.5)
                p.data.copy_(slow)


WRAPPERS: dict[str, type[Any]] = {"z": ScheduleFree, "slow_buffer": Lookahead}


@pytest.mark.parametrize(
    ("key", "entry"),
    [(k, entry) for k, m in METHODS.items() for entry in WRAPPERS if entry not in m().buffers(m.options.defaults())],
)
def test_a_wrapper_that_keeps_tensors_in_the_state_trains_and_resumes_bit_for_bit(key: str, entry: str) -> None:
    whole, x, plain = points(), points(), points()
    wrapped = WRAPPERS[entry](optimizer_of(key, [whole]))
    bare, kept = (
        optimizer_of(key, [plain]),
        plain.detach().clone(),
    )  # the wrapper's arithmetic, with its tensors elsewhere
    outside = WRAPPERS[entry](Apart(bare))
    for k in range(8):
        assert step(wrapped, whole) == step(outside, plain), k
    assert torch.equal(whole, plain)
    assert not torch.equal(whole, kept)
    assert key not in WITH_D or wrapped.base.d > OPTIONS["d0"]
    resumed = WRAPPERS[entry](optimizer_of(key, [x]))
    with torch.no_grad():
        x.copy_(whole)
    resumed.load_state_dict(through_a_file(wrapped.state_dict()))
    for _ in range(5):
        assert step(resumed, x) == step(wrapped, whole)
    assert torch.equal(x, whole)
    assert same(snapshot(resumed), snapshot(wrapped))
    assert entry in resumed.base.state[x]


def test_a_wrapper_may_keep_tensors_of_parameters_that_are_frozen() -> None:
    def build() -> tuple[list[nn.Parameter], Any]:
        params = [points(), points(5).requires_grad_(False)]
        return params, Lookahead(optimizer_of("prodigy", params))

    params, optimizer = build()
    copies, other = build()
    for _ in range(4):
        step(optimizer, params[0])
    other.load_state_dict(through_a_file(optimizer.state_dict()))
    assert set(other.state[copies[1]]) == {"slow_buffer"}
    copies[1].requires_grad_(True)
    step(other, *copies)
    assert {"slow_buffer", "p0", "s"} < set(other.state[copies[1]])


class Apart:
    """An optimizer whose wrapper keeps its own entries in a state of their own."""

    def __init__(self, optimizer: Any) -> None:
        self.optimizer, self.state = optimizer, defaultdict(dict)
        self.param_groups = optimizer.param_groups

    def step(self) -> None:
        self.optimizer.step()


def with_foreign_entries(key: str) -> tuple[dd.LearningRateFree, nn.Parameter]:
    x = points()
    optimizer = optimizer_of(key, [x])
    optimizer.state[x].update(
        z=torch.ones(2), count=torch.tensor(3), name="a", nested={"t": [torch.ones(1), 2]}, none=None
    )
    optimizer.state["lookahead"] = {"k": 5, "slow": torch.arange(3)}  # type: ignore[index]
    optimizer.state["steps"] = 7  # type: ignore[index]
    optimizer.state[("a", 1)] = torch.zeros(2, dtype=torch.int32)  # type: ignore[index]
    for _ in range(3):
        step(optimizer, x)
    return optimizer, x


def foreign_of(optimizer: Any, x: Tensor) -> Any:
    mine = {"z", "count", "name", "nested", "none"}
    own = {name: value for name, value in optimizer.state[x].items() if name in mine}
    return own, {key: value for key, value in optimizer.state.items() if not isinstance(key, Tensor)}


def by_loading(optimizer: Any, x: nn.Parameter) -> Any:
    new = nn.Parameter(x.detach().clone())
    other = type(optimizer)([new], **OPTIONS)
    other.load_state_dict(optimizer.state_dict())
    return other, new


COPIES: dict[str, Callable[[Any, nn.Parameter], Any]] = {
    "load": by_loading,
    "deepcopy": lambda optimizer, x: copy.deepcopy((optimizer, x)),
    "pickle": lambda optimizer, x: pickle.loads(pickle.dumps((optimizer, x))),
}


@pytest.mark.parametrize("how", COPIES)
@pytest.mark.parametrize("key", ["prodigy", "dadapt_adan"])
def test_foreign_entries_travel_untouched(key: str, how: str) -> None:
    optimizer, x = with_foreign_entries(key)
    other, y = COPIES[how](optimizer, x)
    assert same(foreign_of(other, y), foreign_of(optimizer, x))
    assert other.state[y]["z"].data_ptr() != optimizer.state[x]["z"].data_ptr()
    for _ in range(5):
        assert step(other, y) == step(optimizer, x)
    assert torch.equal(x, y)
    assert optimizer.d > OPTIONS["d0"]


def test_a_foreign_key_that_a_state_dict_could_not_tell_from_a_parameter_is_refused() -> None:
    optimizer, _ = with_foreign_entries("prodigy")
    optimizer.state[0] = 1  # type: ignore[index]
    with pytest.raises(ValueError, match=r"key 0.*another key"):
        optimizer.state_dict()


# -------------------------------------------------------------------- torch's ZeroRedundancyOptimizer


def zero_redundancy(key: str, options: dict[str, Any]) -> tuple[list[float], list[float], bool]:
    """d of an uninterrupted run, and of one that goes on from its consolidated state dict: each rank has its parameters."""
    import torch.distributed as dist
    from torch.distributed.optim import ZeroRedundancyOptimizer

    def build() -> tuple[list[nn.Parameter], Any]:
        params = [points(rows) for rows in (8, 5, 6, 3)]
        return params, ZeroRedundancyOptimizer(params, optimizer_class=ALL[key], **first_d(key, 1e-3), **options)

    params, optimizer = build()
    for _ in range(6):
        step(optimizer, *params)
    optimizer.consolidate_state_dict(0)
    box = [through_a_file(optimizer.state_dict()) if dist.get_rank() == 0 else None]  # torch's shares tensors
    dist.broadcast_object_list(box, 0)
    copies, resumed = build()
    with torch.no_grad():
        for p, value in zip(copies, params, strict=True):
            p.copy_(value)
    resumed.load_state_dict(box[0])
    whole = [step(optimizer, *params) for _ in range(6)]
    again = [step(resumed, *copies) for _ in range(6)]
    return whole, again, all(map(torch.equal, params, copies))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("key", "options"),
    [*((key, {}) for key in ALL), ("prodigy", {"slice_p": 4}), ("dadapt_sgd", {"momentum": 0.9})],
    ids=str,
)
def test_torchs_zero_redundancy_optimizer_resumes_bit_for_bit(key: str, options: dict[str, Any], pools: Any) -> None:
    for whole, again, equal in pools(2).run(zero_redundancy, key, options):
        assert again == whole
        assert equal
        assert key not in WITH_D or whole[-1] > OPTIONS["d0"]
