"""Check the error for each wrong option, parameter, gradient or call, and that nothing is lost by it."""

import copy
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import dadapt_dist as dd
from tests.helpers.classes import ALL, SLOW, WITH_D, first_d
from tests.helpers.oracles.released import Problem

INF, NAN = math.inf, math.nan
METHODS = list(ALL)


def quadratic(method: str = "prodigy", **options: Any) -> tuple[dd.LearningRateFree, Callable[[], None]]:
    """An optimizer, and a function that gives every parameter a gradient; the same numbers at every call."""
    weights = [torch.nn.Parameter(torch.full(shape, 0.5, dtype=torch.float64)) for shape in ((3, 2), (4,))]
    groups = [{"params": [weights[0]]}, {"params": [weights[1]]}]

    def backward() -> None:
        for p in optimizer.param_groups[0]["params"] + optimizer.param_groups[1]["params"]:
            p.grad = p.detach() - 3.0

    optimizer = ALL[method](groups, **{**first_d(method, 1e-2), **options})
    return optimizer, backward


def everything(optimizer: dd.LearningRateFree) -> list[Any]:
    """All that training goes on from: scalars, buffers, parameters, options."""
    saved = optimizer.state_dict()
    params = [p.detach().clone() for group in optimizer.param_groups for p in group["params"]]
    buffers = [t.clone() for state in saved["state"].values() for t in state.values()]
    return [*params, *buffers, saved["param_groups"]]


def assert_same(now: list[Any], before: list[Any]) -> None:
    assert len(now) == len(before)
    for a, b in zip(now, before, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0, equal_nan=True) if isinstance(a, Tensor) else None
        assert isinstance(a, Tensor) or a == b


def assert_still_trains(optimizer: dd.LearningRateFree, backward: Callable[[], None], method: str = "prodigy") -> None:
    """Two more steps give what an optimizer gives that never met the error."""
    twin, twin_backward = quadratic(method)
    while twin.step_size.steps < optimizer.step_size.steps + 2:
        twin_backward()
        twin.step()
    for _ in range(2):
        backward()
        optimizer.step()
    assert_same(everything(optimizer), everything(twin))
    assert optimizer.d > 9e-3 or method in SLOW or method not in WITH_D


BAD_VALUES: dict[str, list[Any]] = {
    "lr": [-0.1, INF, NAN, "1.0", None, torch.ones(2), True],
    "d0": [0.0, -1e-6, INF, NAN, "1e-6"],
    "eps": [0.0, -1e-8, INF, NAN],
    "betas": [(1.0, 0.9), (-0.1, 0.9), (0.9, NAN), (0.9,), (0.9, 0.99, 0.999), 0.9, ("a", "b")],
    "beta3": [1.0, -0.5, NAN, "no"],
    "weight_decay": [-0.1, INF, NAN],
    "d_coef": [0.0, -1.0, INF, NAN],
    "growth_rate": [0.9, -INF, NAN, None],
    "slice_p": [0, -1, 1.5, True],
    "layer_scale": [-1.0, INF, NAN],
    "decouple": [1, "yes", None],
    "use_bias_correction": [0],
    "safeguard_warmup": ["True"],
    "maximize": [1],
}
CASES = [("prodigy", name, value) for name, values in BAD_VALUES.items() for value in values]
CASES += [("dadapt_sgd", "momentum", value) for value in (1.0, -0.1, NAN)]
CASES += [("dadapt_adam", "log_every", value) for value in (-1, 1.5)]
CASES += [("dadapt_adan", "betas", value) for value in ((0.9, 0.99), (0.9, 0.9, 1.0))]
CASES += [("dadapt_adan", "no_prox", 1), ("dadapt_adagrad", "eps", -1.0), ("dadapt_lion", "betas", (0.9, 0.9, 0.9))]


@pytest.mark.parametrize(("method", "name", "value"), CASES, ids=lambda value: str(value).replace(" ", ""))
def test_an_option_out_of_range_names_value_range_and_cure(method: str, name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=name) as caught:
        quadratic(method, **{name: value})
    text = str(caught.value)
    assert repr(value) in text
    assert "must be" in text
    assert text.rstrip().endswith(".")
    assert len(text.split(". ")) >= 2, "the cure is missing"


@pytest.mark.parametrize(("method", "name", "value"), CASES, ids=lambda value: str(value).replace(" ", ""))
def test_a_new_group_with_an_option_out_of_range_leaves_the_optimizer_as_it_was(
    method: str, name: str, value: Any
) -> None:
    optimizer, backward = quadratic(method)
    backward()
    optimizer.step()
    before = everything(optimizer)
    with pytest.raises(ValueError, match=name):
        optimizer.add_param_group({"params": [torch.nn.Parameter(torch.ones(2))], name: value})
    assert_same(everything(optimizer), before)
    assert len(optimizer.param_groups) == 2
    assert_still_trains(optimizer, backward, method)


@pytest.mark.parametrize(
    ("name", "value"),
    [("freeze_after", 0), ("freeze_after", -3), ("freeze_after", 2.5), ("freeze_after", True), ("sync", "later"),
     ("sync", None), ("nonfinite", "ignore"), ("nonfinite", True)],
)  # fmt: skip
def test_a_bad_step_size_option_says_what_is_allowed(name: str, value: Any) -> None:
    for make in (lambda: quadratic(**{name: value}), lambda: dd.StepSize(**{name: value})):
        with pytest.raises(ValueError, match=f"{name}={value!r}") as caught:
            make()
        assert "None" in str(caught.value) or "one of" in str(caught.value)


@pytest.mark.parametrize("value", [torch.int32, torch.float16, torch.complex64])
def test_a_bad_state_dtype_says_which_are_allowed(value: torch.dtype) -> None:
    with pytest.raises(ValueError, match=f"state_dtype={value}.*torch.float32"):
        quadratic(state_dtype=value)


@pytest.mark.parametrize("value", [[], ["a", "a"], "default"])
def test_bad_names_of_estimates_raise(value: Any) -> None:
    with pytest.raises(ValueError, match="different names"):
        dd.StepSize(value)


@pytest.mark.parametrize("method", METHODS)
def test_an_empty_parameter_list_raises(method: str) -> None:
    with pytest.raises(ValueError, match="empty parameter list"):
        ALL[method]([])


@pytest.mark.parametrize("method", METHODS)
def test_an_unknown_keyword_lists_the_known_ones_and_the_nearest(method: str) -> None:
    w = torch.nn.Parameter(torch.ones(2))
    with pytest.raises(TypeError, match=r"'weight_decya'; did you mean 'weight_decay'\?") as caught:
        ALL[method]([w], weight_decya=0.1)
    assert all(
        name in str(caught.value) for name in ("lr", *first_d(method, 1.0), "freeze_after", "nonfinite", "step_size")
    )
    with pytest.raises(TypeError, match=r"'zebra'. It takes"):
        ALL[method]([w], zebra=1)


def test_a_key_of_a_group_that_is_nearly_an_option_raises_and_one_of_the_users_own_does_not() -> None:
    optimizer, backward = quadratic()
    for key, near in (("weight_decya", "weight_decay"), ("layer_scal", "layer_scale"), ("betass", "betas")):
        with pytest.raises(ValueError, match=f"unknown option '{key}'; did you mean '{near}'"):
            optimizer.add_param_group({"params": [torch.nn.Parameter(torch.ones(2))], key: 0.1})
    assert_still_trains(optimizer, backward)
    extra = torch.nn.Parameter(torch.ones(2))
    own = {"my_tag": "x", "max_momentum": 0.9, "base_momentum": 0.8, "initial_lr": 1.0}  # the second two: OneCycleLR's
    sgd = dd.DAdaptSGD([{"params": [extra], **own}])
    assert all(sgd.param_groups[0][name] == value for name, value in own.items())


@pytest.mark.parametrize("dtype", [torch.complex64, torch.int64, torch.bool])
def test_a_parameter_that_is_not_real_raises_and_is_not_added(dtype: torch.dtype) -> None:
    strange = torch.ones(2).to(dtype)
    with pytest.raises(ValueError, match=f"dtype {dtype}.*float32.*view_as_real"):
        dd.Prodigy([strange])
    optimizer, backward = quadratic()
    with pytest.raises(ValueError, match=str(dtype)):
        optimizer.add_param_group({"params": [strange]})
    assert len(optimizer.param_groups) == 2
    assert_still_trains(optimizer, backward)


def test_a_parameter_given_twice_or_a_group_without_params_raises_and_is_not_added() -> None:
    optimizer, backward = quadratic()
    with pytest.raises(ValueError, match="more than one parameter group"):
        optimizer.add_param_group({"params": list(optimizer.param_groups[0]["params"])})
    with pytest.raises(KeyError, match="params"):
        optimizer.add_param_group({"lr": 1.0})
    with pytest.raises(TypeError, match="dict"):
        optimizer.add_param_group([torch.nn.Parameter(torch.ones(2))])  # type: ignore[arg-type]
    assert_still_trains(optimizer, backward)


@pytest.mark.parametrize("method", [method for method in METHODS if method != "dadapt_adagrad"])
def test_a_sparse_gradient_of_a_method_that_takes_none_raises_before_anything_moves(method: str) -> None:
    optimizer, backward = quadratic(method)
    backward()
    optimizer.step()
    before = everything(optimizer)
    backward()
    last = optimizer.param_groups[1]["params"][0]
    last.grad = last.grad.to_sparse()
    with pytest.raises(RuntimeError, match=r"sparse gradient.*DAdaptAdaGrad"):
        optimizer.step()
    assert_same(everything(optimizer), before)
    assert_still_trains(optimizer, backward, method)


@pytest.mark.parametrize("option", [{"momentum": 0.5}, {"weight_decay": 0.1}])
def test_adagrad_with_momentum_or_decay_refuses_a_sparse_gradient_before_anything_moves(option: dict[str, Any]) -> None:
    optimizer, backward = quadratic("dadapt_adagrad")
    backward()
    optimizer.step()
    before = everything(optimizer)
    backward()
    last = optimizer.param_groups[1]["params"][0]
    last.grad = last.grad.to_sparse()
    optimizer.param_groups[1].update(option)
    name, value = next(iter(option.items()))
    with pytest.raises(ValueError, match=f"{name}={value}.*sparse gradient.*group of its own"):
        optimizer.step()
    optimizer.param_groups[1][name] = 0.0
    assert_same(everything(optimizer), before)
    assert_still_trains(optimizer, backward, "dadapt_adagrad")


def test_a_gradient_of_another_shape_raises_before_anything_moves() -> None:
    optimizer, backward = quadratic()
    backward()
    optimizer.step()
    before = everything(optimizer)
    backward()
    last = optimizer.param_groups[1]["params"][0]
    last.grad.resize_(2)
    with pytest.raises(ValueError, match=r"parameter 0 of group 1.*\(2,\).*\(4,\).*resized after backward"):
        optimizer.step()
    assert_same(everything(optimizer), before)
    assert_still_trains(optimizer, backward)


def test_one_step_size_serves_one_method_only() -> None:
    shared = dd.StepSize()
    first = dd.Prodigy([torch.nn.Parameter(torch.ones(2))], step_size=shared)
    with pytest.raises(ValueError, match="prodigy, and dadapt_lion cannot share it"):
        dd.DAdaptLion([torch.nn.Parameter(torch.ones(2))], step_size=shared)
    first.param_groups[0]["params"][0].grad = torch.ones(2)
    first.step()
    assert shared.steps == 1, "the refused optimizer must not be waited for"


@pytest.mark.parametrize(
    "option",
    [{"nonfinite": "skip"}, {"sync": "step"}, {"freeze_after": 3}, {"process_group": "some"}, {"copies": lambda p: 1}],
    ids=lambda option: next(iter(option)),
)
def test_options_of_the_step_size_together_with_a_shared_one_raise(option: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"the StepSize holds {next(iter(option))}; pass"):
        dd.Prodigy([torch.nn.Parameter(torch.ones(2))], step_size=dd.StepSize(), **option)


def test_an_estimate_that_does_not_exist_names_those_that_do() -> None:
    shared = dd.StepSize(["unet", "text"])
    w = torch.nn.Parameter(torch.ones(2))
    for groups in ([w], [{"params": [w], "estimate": "vae"}]):
        with pytest.raises(ValueError, match=r"no estimate .*\['unet', 'text'\]"):
            dd.Prodigy(groups, step_size=shared)
    optimizer = dd.Prodigy([{"params": [w], "estimate": "text"}], step_size=shared)
    with pytest.raises(ValueError, match="no estimate 'default'"):
        optimizer.add_param_group({"params": [torch.nn.Parameter(torch.ones(2))]})
    assert len(optimizer.param_groups) == 1
    w.grad = torch.ones(2)
    optimizer.step()
    assert set(optimizer.d) == {"unet", "text"}  # type: ignore[arg-type]


DIFFERENT = [
    ("prodigy", "d0", 1e-4), ("prodigy", "d_coef", 2.0), ("prodigy", "growth_rate", 1.5), ("prodigy", "beta3", 0.5),
    ("dadapt_adam", "d0", 1e-4), ("dadapt_sgd", "growth_rate", 1.5), ("dadapt_lion", "d0", 1e-4),
]  # fmt: skip


@pytest.mark.parametrize(("method", "name", "value"), DIFFERENT, ids=str)
def test_two_groups_of_one_estimate_with_different_constants_raise(method: str, name: str, value: Any) -> None:
    weights = [torch.nn.Parameter(torch.ones(2)) for _ in range(3)]
    groups = [{"params": [weights[0]]}, {"params": [weights[1]], name: value}]
    with pytest.raises(ValueError, match=r"two groups of the estimate 'default' differ.*estimate"):
        ALL[method](groups)
    optimizer, backward = quadratic(method)
    backward()
    optimizer.step()
    before = everything(optimizer)
    with pytest.raises(ValueError, match="differ"):
        optimizer.add_param_group({"params": [weights[2]], name: value})
    assert_same(everything(optimizer), before)
    assert_still_trains(optimizer, backward, method)


@pytest.mark.parametrize(("method", "betas"), [("prodigy", (0.9, 0.5)), ("dadapt_adan", (0.9, 0.9, 0.5))])
def test_groups_of_one_estimate_may_differ_in_betas(method: str, betas: tuple[float, ...]) -> None:
    optimizer, _ = quadratic(method)
    optimizer.add_param_group({"params": [torch.nn.Parameter(torch.ones(2))], "betas": betas})
    assert optimizer.param_groups[-1]["betas"] == betas


def test_a_refused_optimizer_leaves_nothing_in_a_shared_step_size() -> None:
    shared = dd.StepSize()
    weights = [torch.nn.Parameter(torch.ones(2)) for _ in range(2)]
    with pytest.raises(ValueError, match="differ in d0"):
        dd.Prodigy([{"params": [weights[0]], "d0": 1e-3}, {"params": [weights[1]], "d0": 1e-4}], step_size=shared)
    with pytest.raises(ValueError, match="empty"):
        dd.Prodigy([], step_size=shared)
    with pytest.raises(ValueError, match="complex"):
        dd.Prodigy([torch.ones(2, dtype=torch.complex64)], step_size=shared)
    optimizer = dd.DAdaptAdam(weights, d0=1e-2, step_size=shared)
    for w in weights:
        w.grad = torch.ones(2)
    optimizer.step()
    assert shared.steps == 1
    assert optimizer.d == 1e-2
    assert list(shared._scalars.names) == ["default"]


def pair(**options: Any) -> tuple[dd.StepSize, list[dd.Prodigy], Callable[[], None]]:
    """Two optimizers that share a step size."""
    problem, shared = Problem(), dd.StepSize(**options)
    weights = [torch.nn.Parameter(start.clone()) for start in problem.starts[:2]]
    optimizers = [dd.Prodigy([w], d0=1e-2, step_size=shared) for w in weights]

    def backward() -> None:
        for w, target in zip(weights, problem.targets, strict=False):
            w.grad = w.detach() - target

    return shared, optimizers, backward


def test_stepping_one_of_two_twice_raises_and_the_next_whole_step_works() -> None:
    shared, (first, second), backward = pair()
    backward()
    first.step()
    with pytest.raises(RuntimeError, match=r"stepped twice.*window"):
        first.step()
    steps = shared.steps
    for _ in range(3):
        backward()
        first.step()
        second.step()
    assert shared.steps == steps + 3
    assert shared.d > 1e-2


def test_windows_do_not_nest_and_the_outer_one_is_dropped_whole() -> None:
    shared, (first, second), backward = pair()
    backward()
    with pytest.raises(RuntimeError, match="do not nest"), shared.window(), shared.window():
        pass
    with shared.window():
        first.step()
        second.step()
    assert shared.steps == 1


def test_an_exception_inside_a_window_drops_it_and_the_next_one_works() -> None:
    shared, (first, second), backward = pair()
    backward()

    def interrupted() -> None:
        with shared.window():
            first.step()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert shared.steps == 0
    for _ in range(3):
        backward()
        with shared.window():
            first.step()
            second.step()
    assert shared.steps == 3
    assert shared.d > 1e-2


def test_a_half_done_step_cannot_be_saved_and_can_be_finished() -> None:
    shared, (first, second), backward = pair()
    backward()
    with shared.window():
        first.step()
        with pytest.raises(RuntimeError, match="step is half done"):
            first.state_dict()
        second.step()
    assert shared.steps == 1
    assert first.state_dict()["param_groups"][0]["steps"] == 1


def test_a_step_size_without_an_optimizer_says_so() -> None:
    with pytest.raises(RuntimeError, match="no optimizer yet"):
        _ = dd.StepSize().d


def test_a_closure_that_fails_loses_nothing() -> None:
    optimizer, backward = quadratic()
    backward()
    optimizer.step()
    before = everything(optimizer)

    def closure() -> float:
        raise ArithmeticError("bad batch")

    with pytest.raises(ArithmeticError, match="bad batch"):
        optimizer.step(closure)
    assert_same(everything(optimizer), before)
    assert_still_trains(optimizer, backward)


def test_an_lr_out_of_range_set_later_raises_before_anything_moves() -> None:
    optimizer, backward = quadratic()
    backward()
    optimizer.step()
    before = everything(optimizer)
    for value in (NAN, INF, -1.0):
        optimizer.param_groups[1]["lr"] = value
        backward()
        with pytest.raises(ValueError, match="lr"):
            optimizer.step()
    optimizer.param_groups[1]["lr"] = 1.0
    assert_same(everything(optimizer), before)
    assert_still_trains(optimizer, backward)


@pytest.mark.parametrize("wrong", [3, dd.StepSize, object()], ids=["number", "class", "object"])
def test_a_step_size_of_another_type_raises(wrong: Any) -> None:
    with pytest.raises(TypeError, match=r"^Prodigy: step_size=.* is no StepSize\. Pass StepSize\(\.\.\.\) or a name"):
        dd.Prodigy([torch.nn.Parameter(torch.ones(2))], step_size=wrong)


def test_in_the_middle_of_a_step_the_error_says_how_to_end_it() -> None:
    shared = dd.StepSize()
    first, second = (dd.Prodigy([torch.nn.Parameter(torch.ones(2))], step_size=shared) for _ in range(2))
    for p in first.param_groups[0]["params"]:
        p.grad = torch.ones(2)
    first.step()
    with pytest.raises(
        RuntimeError, match=r"half done: first close the window, or step every optimizer that shares the StepSize$"
    ):
        second.set_d(1e-3)


def test_a_step_size_without_optimizers_shows_no_learning_rate() -> None:
    optimizer, _ = quadratic()
    assert repr(optimizer.step_size) == "StepSize (d=0.01, d·lr=0.01, steps=0, held steps=0)"
    assert repr(copy.deepcopy(optimizer.step_size)) == "StepSize (d=0.01, steps=0, held steps=0)"


def test_a_d_that_a_new_group_brings_is_told_of(caplog: pytest.LogCaptureFixture) -> None:
    optimizer = dd.Prodigy([{"params": [torch.nn.Parameter(torch.ones(2))], "d": 1e-3}])
    assert optimizer.d == 1e-6
    assert "Prodigy group 0: d=0.001 of a new group is not taken" in caplog.text
    caplog.clear()
    dd.Prodigy(optimizer.param_groups)
    assert not caplog.records, "groups of another optimizer show its d, and nobody has set one"


@pytest.mark.parametrize("method", WITH_D)
def test_a_copy_of_a_group_with_another_d_sets_it_as_the_group_does(method: str) -> None:
    (optimizer, backward), (twin, twins) = quadratic(method), quadratic(method)
    for one, gradients in ((optimizer, backward), (twin, twins)):
        for _ in range(3):
            gradients()
            one.step()
    optimizer.param_groups = [group | {"d": 1.25} for group in optimizer.param_groups]
    twin.param_groups[0]["d"] = 1.25
    assert optimizer.effective_lr == twin.effective_lr
    assert_same(everything(optimizer), everything(twin))
