"""Check that a checkpoint that does not fit is refused with the name of what is wrong, and changes nothing."""

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import dadapt_dist as dd
from dadapt_dist.integrations.deepspeed import universal_restore
from dadapt_dist.methods import METHODS
from tests.helpers.resumed import AFTER, BEFORE, TWO_GROUPS, Pair, Run, same, snapshot
from tests.helpers.runs import our_step


def drop(*keys: str) -> Callable[[dict[str, Any]], None]:
    def change(checkpoint: dict[str, Any]) -> None:
        for key in keys:
            del checkpoint["param_groups"][1][key]

    return change


def drop_buffer(name: str) -> Callable[[dict[str, Any]], None]:
    return lambda checkpoint: checkpoint["state"][2].pop(name)


def put(key: str, value: Any) -> Callable[[dict[str, Any]], None]:
    return lambda checkpoint: checkpoint["param_groups"][1].__setitem__(key, value)


def reshape(checkpoint: dict[str, Any]) -> None:
    checkpoint["state"][0]["exp_avg"] = checkpoint["state"][0]["exp_avg"].mT.contiguous()


def move_a_parameter(checkpoint: dict[str, Any]) -> None:
    first, second = checkpoint["param_groups"]
    second["params"].insert(0, first["params"].pop())


def put_everywhere(**values: Any) -> Callable[[dict[str, Any]], None]:
    """In all groups, so that it is the value and not a difference between the groups that is refused."""
    return lambda checkpoint: [group.update(values) for group in checkpoint["param_groups"]]  # type: ignore[func-returns-value]


def buffer(name: str, change: Callable[[Tensor], Any]) -> Callable[[dict[str, Any]], None]:
    return lambda checkpoint: checkpoint["state"][2].__setitem__(name, change(checkpoint["state"][2][name]))


def with_an_element(value: float) -> Callable[[Tensor], Tensor]:
    def change(t: Tensor) -> Tensor:
        t.view(-1)[3] = value
        return t

    return change


def nested(t: Tensor) -> Tensor:
    with warnings.catch_warnings():  # action= came with Python 3.11
        warnings.simplefilter("ignore")
        return torch.nested.nested_tensor([t.flatten()])


def name_a_parameter_twice(checkpoint: dict[str, Any]) -> None:
    checkpoint["param_groups"][1]["params"][0] = checkpoint["param_groups"][0]["params"][0]


def rename_a_parameter(checkpoint: dict[str, Any]) -> None:
    checkpoint["state"][17] = checkpoint["state"].pop(2)


INF, NAN = float("inf"), float("nan")
D_RANGE = "out of range; it must be finite, > 0 and at most 3.4e.38"
UNFIT: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "another method": (put("method", "dadapt_adam"), "dadapt_adam.*prodigy"),
    "a method that is a tensor": (put("method", torch.ones(2)), "of the method tensor.*prodigy"),
    "no method": (drop("method"), "another optimizer.*convert"),
    "missing scalars": (drop("d_max", "numerator"), "group 1.*lacks d_max, numerator"),
    "missing options": (drop("beta3"), "lacks beta3"),
    "missing steps": (drop("steps"), "lacks steps"),
    "missing buffers": (drop_buffer("exp_avg_sq"), r"lacks the buffers exp_avg_sq .*\(2, 3, 2\)"),
    "missing statistics": (drop_buffer("s"), "lacks the buffers s .*freeze_after"),
    "another shape": (reshape, r"exp_avg has shape \(4, 3\), its parameter \(3, 4\)"),
    "wrong group sizes": (move_a_parameter, r"\[1, 3\].*\[2, 2\]"),
    "a group too few": (lambda c: c["param_groups"].pop(), r"\[2\].*\[2, 2\]"),
    "an unknown estimate": (put("estimate", "vision"), "'vision'.*default"),
    "an option out of range": (put("betas", (0.9, 1.5)), "betas"),
    "d that is not a number": (put("d", float("nan")), "d=nan.*finite"),
    "two values of one d": (put("d", 0.5), "differ in d "),
    "two d_coef of one d": (put("d_coef", 0.5), "differ in d_coef"),
    "no state": (lambda c: c["state"].clear(), "after 6 steps.*no buffers"),
    "d zero": (put_everywhere(d=0.0), f"group 0 of the checkpoint: d=0.0 is {D_RANGE}. Go back to an earlier"),
    "d negative": (put_everywhere(d=-1e-3), f"d=-0.001 is {D_RANGE}"),
    "d infinite": (put_everywhere(d=INF, d_max=INF), f"d=inf is {D_RANGE}"),
    "d beyond anything": (put_everywhere(d=1e300, d_max=1e300), rf"d=1e\+300 is {D_RANGE}"),
    "d as a text": (put_everywhere(d="0.1"), f"d='0.1' is {D_RANGE}"),
    "d as a bool": (put_everywhere(d=True), f"d=True is {D_RANGE}"),
    "d complex": (put_everywhere(d=1j), "d=1j is out of range"),
    "d of several elements": (put_everywhere(d=torch.ones(2)), "d=tensor.*out of range"),
    "d above d_max": (put_everywhere(d=0.5, d_max=0.25), "d_max=0.25 is less than d=0.5"),
    "k negative": (put_everywhere(k=-1), "k=-1 is out of range; it must be a whole number >= 0"),
    "k fractional": (put_everywhere(k=2.5), "k=2.5 is out of range; it must be a whole number"),
    "held negative": (put_everywhere(held=-1.0), "held=-1.0 is out of range"),
    "steps negative": (put_everywhere(steps=-6), "steps=-6 is out of range"),
    "steps huge": (put_everywhere(steps=1e300), r"steps=1e\+300 is out of range"),
    "steps not a number": (put_everywhere(steps=NAN), "steps=nan is out of range"),
    "numerator not a number": (put_everywhere(numerator=NAN), "numerator=nan is out of range; it must be finite"),
    "numerator infinite": (put_everywhere(numerator=-INF), "numerator=-inf is out of range"),
    "numerator beyond anything": (put_everywhere(numerator=1e300), r"numerator=1e\+300 is out of range"),
    "a newer format": (put_everywhere(format=2), "format 2, made by a newer dadapt-dist; .* up to 1: update"),
    "no format": (put_everywhere(format="new"), "format='new' must be an integer"),
    "an lr as a text": (put_everywhere(lr="1.0"), "group 0 of the checkpoint: lr='1.0' cannot be read"),
    "an estimate that is no name": (put_everywhere(estimate=["a"]), r"estimate=\['a'\] cannot be read"),
    "NaN in a buffer": (
        buffer("exp_avg", with_an_element(NAN)),
        r"exp_avg .*\(2, 3, 2\) has elements that are not finite",
    ),
    "infinity in x0": (buffer("p0", with_an_element(INF)), r"p0 .*\(2, 3, 2\) has elements that are not finite"),
    "an integer buffer": (buffer("s", lambda t: t.long()), r"s of a .*\(2, 3, 2\) is of the dtype torch.int64"),
    "a bool buffer": (buffer("s", lambda t: t > 0), "is of the dtype torch.bool"),
    "a complex buffer": (buffer("s", lambda t: t + 0j), "is of the dtype torch.complex128"),
    "a sparse buffer": (buffer("s", lambda t: t.to_sparse()), "is sparse"),
    "a buffer without data": (buffer("s", lambda t: t.to("meta")), "on the meta device"),
    "a nested buffer": (buffer("s", nested), "s of a .* is nested"),
    "squares below zero": (
        buffer("exp_avg_sq", with_an_element(-1e-3)),
        r"exp_avg_sq .* has elements below 0 \(-0.001\)",
    ),
    "d without data": (put_everywhere(d=torch.empty((), device="meta")), "d=tensor.*out of range"),
    "a slice beyond any tensor": (put_everywhere(slice_p=2**70), "slice_p=.*out of range"),
    "a list for a buffer": (buffer("s", lambda t: t.tolist()), "s of a .* is of the type list"),
    "a parameter twice": (name_a_parameter_twice, "name the parameter 0 more than once"),
    "an unknown parameter": (rename_a_parameter, "state of a parameter 17 that is in none of its groups"),
    "groups that are a dict": (
        lambda c: c.update(param_groups=dict(enumerate(c["param_groups"]))),
        "must be a list of dicts",
    ),
    "a group that is none": (lambda c: c["param_groups"].__setitem__(1, None), "must be a list of dicts"),
    "a group without parameters": (drop("params"), "group 1 of the checkpoint: params=None must be a list of indices"),
    "parameters that are a number": (put("params", 2), "params=2 must be a list of indices"),
    "state that is a list": (
        lambda c: c.update(state=list(c["state"].values())),
        "state .* of the type list, not a dict",
    ),
    "a parameter's state that is a list": (
        lambda c: c["state"].__setitem__(2, [1]),
        "state of parameter 2 is of the type list",
    ),
    "only options": (
        lambda c: [g.clear() or g.update(params=[0, 1]) for g in c["param_groups"][:1]],
        "flatten_optimizer_state_dict=True",
    ),
    "only groups": (lambda c: c.pop("state"), "lacks state"),
    "the file around it": (lambda c: c.pop("param_groups"), "lacks param_groups"),
}


@pytest.mark.parametrize("case", UNFIT)
def test_an_unfit_checkpoint_is_refused_by_name_and_changes_nothing(case: str) -> None:
    change, message = UNFIT[case]
    checkpoint = snapshot(Run("prodigy", {}, TWO_GROUPS).steps(0, BEFORE).optimizer)
    change(checkpoint)
    run = Run("prodigy", {}, TWO_GROUPS).steps(0, 4)
    before, weights = snapshot(run.optimizer), run.weights()

    with pytest.raises(ValueError, match=message):
        run.optimizer.load_state_dict(checkpoint)

    assert same(snapshot(run.optimizer), before)
    undisturbed = Run("prodigy", {}, TWO_GROUPS).steps(0, 8)
    assert same(run.weights(), weights)
    assert same(snapshot(run.steps(4, 4).optimizer), snapshot(undisturbed.optimizer))


def test_a_checkpoint_of_adamw_is_refused_and_points_to_convert() -> None:
    run = Run("prodigy").steps(0, 4)
    xs = [nn.Parameter(x.detach().clone()) for x in run.xs]
    adamw = torch.optim.AdamW(xs)
    our_step(adamw, xs, run.problem.gradients(0, xs))  # type: ignore[arg-type]
    before = snapshot(run.optimizer)

    with pytest.raises(ValueError, match=r"another optimizer.*prodigyopt"):
        run.optimizer.load_state_dict(adamw.state_dict())
    assert same(snapshot(run.optimizer), before)


def test_a_checkpoint_without_some_parameters_says_that_they_start_afresh(
    library_log: pytest.LogCaptureFixture,
) -> None:
    run = Run("prodigy").steps(0, BEFORE)
    checkpoint = run.optimizer.state_dict()
    del checkpoint["state"][2]
    Run("prodigy").take(run.weights(), checkpoint)
    assert ["1 trainable" in message for message in library_log.messages] == [True]


def test_a_frozen_checkpoint_goes_on_frozen_and_is_refused_without_freeze_after() -> None:
    run = Run("prodigy", {"freeze_after": 4}).steps(0, BEFORE)
    checkpoint = run.optimizer.state_dict()
    assert set(checkpoint["state"][0]) == {"exp_avg", "exp_avg_sq"}

    fresh = Run("prodigy")
    before = snapshot(fresh.optimizer)
    with pytest.raises(ValueError, match=r"lacks the buffers p0, s .*frozen.*freeze_after"):
        fresh.optimizer.load_state_dict(checkpoint)
    assert same(snapshot(fresh.optimizer), before)


def test_a_checkpoint_with_statistics_loads_into_an_optimizer_that_is_frozen_by_then() -> None:
    run = Run("prodigy").steps(0, BEFORE)
    frozen = Run("prodigy", {"freeze_after": 4}).take(run.weights(), run.optimizer.state_dict())
    frozen.steps(BEFORE, AFTER)
    assert frozen.optimizer.d == run.optimizer.d
    assert set(frozen.optimizer.state[frozen.xs[0]]) == {"exp_avg", "exp_avg_sq"}


def test_loading_hooks_run_and_may_replace_the_checkpoint() -> None:
    run = Run("prodigy").steps(0, BEFORE)
    other = Run("prodigy")
    calls: list[str] = []
    other.optimizer.register_load_state_dict_pre_hook(
        lambda optimizer, _: calls.append("pre") or run.optimizer.state_dict()
    )
    other.optimizer.register_load_state_dict_post_hook(lambda optimizer: calls.append("post"))
    other.optimizer.load_state_dict({"nothing": 0})
    assert calls == ["pre", "post"]
    assert other.optimizer.d == run.optimizer.d


@pytest.mark.parametrize("checkpoint", [None, [], 3, "state", torch.ones(1)], ids=str)
def test_what_is_no_dict_is_no_checkpoint(checkpoint: Any) -> None:
    with pytest.raises(ValueError, match=f"of the type {type(checkpoint).__name__}, not a dict: pass what"):
        Run("prodigy").optimizer.load_state_dict(checkpoint)


def test_the_marker_of_adan_for_no_gradient_yet_is_no_fault_and_infinity_in_its_place_is() -> None:
    run = Run("dadapt_adan").steps(0, BEFORE)
    checkpoint = snapshot(run.optimizer)
    checkpoint["state"][1]["pre_grad"][:] = NAN
    Run("dadapt_adan").optimizer.load_state_dict(checkpoint)
    checkpoint["state"][1]["pre_grad"].view(-1)[0] = INF
    with pytest.raises(ValueError, match=r"pre_grad .* not finite"):
        Run("dadapt_adan").optimizer.load_state_dict(checkpoint)


@pytest.mark.parametrize(
    ("key", "change", "message"),
    [("dadapt_sgd", {"g0_norm": -1.0}, "g0_norm=-1.0"), ("dadapt_adan", {"gsq_weighted": -1.0}, "gsq_weighted=-1.0")],
)
def test_norms_below_zero_are_refused(key: str, change: dict[str, Any], message: str) -> None:
    checkpoint = snapshot(Run(key).steps(0, BEFORE).optimizer)
    put_everywhere(**change)(checkpoint)
    with pytest.raises(ValueError, match=f"{message} is out of range; it must be finite, >= 0"):
        Run(key).optimizer.load_state_dict(checkpoint)


def test_a_checkpoint_from_before_the_format_had_a_number_loads_and_is_saved_with_it() -> None:
    run = Run("prodigy", {}, TWO_GROUPS).steps(0, BEFORE)
    checkpoint = snapshot(run.optimizer)
    assert [group.pop("format") for group in checkpoint["param_groups"]] == [1, 1]
    other = Run("prodigy", {}, TWO_GROUPS).take(run.weights(), checkpoint)
    assert same(snapshot(other.optimizer), snapshot(run.optimizer))


def test_numbers_that_a_tool_has_put_into_tensors_are_numbers_again() -> None:
    run = Run("prodigy").steps(0, BEFORE)
    checkpoint = snapshot(run.optimizer)
    put_everywhere(d=torch.tensor(run.optimizer.d, dtype=torch.float64), k=torch.tensor([BEFORE]))(checkpoint)
    other = Run("prodigy").take(run.weights(), checkpoint)
    assert same(snapshot(other.optimizer), snapshot(run.optimizer))


@pytest.mark.parametrize("value", [0.0, -1.0, INF, NAN, "a"], ids=str)
def test_a_scalar_set_by_hand_is_looked_at_too(value: Any) -> None:
    run = Run("prodigy").steps(0, 2)
    d = run.optimizer.d
    run.optimizer.param_groups[0]["d"] = value
    with pytest.raises(ValueError, match=r"d=.*must be (finite, |a number )> 0"):
        run.steps(2, 1)
    assert run.optimizer.d == d


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"d": 0.0}, "d=0.0 is out of range"),
        ({"k": -1}, "k=-1 is out of range"),
        ({"numerator": NAN}, "numerator=nan is out of range"),
        ({"d_max": 1e-9}, "d_max=1e-09 is less than d="),
        ({"format": 2}, "newer dadapt-dist"),
        ({"betas": (0.9, 1.5)}, "betas"),
        ({"d_max": None}, "lacks d_max"),
    ],
    ids=str,
)
def test_groups_of_a_framework_that_loads_by_itself_are_held_to_the_same(values: dict[str, Any], message: str) -> None:
    run = Run("prodigy").steps(0, 4)
    group = {**run.optimizer.param_groups[0], **values}
    group = {key: value for key, value in group.items() if value is not None or key == "beta3"}
    with pytest.raises(ValueError, match=message):
        universal_restore.check_method(run.optimizer, group, "group 0")


def test_buffers_of_a_framework_that_loads_by_itself_are_held_to_the_same() -> None:
    run = Run("prodigy").steps(0, 4)
    groups = snapshot(run.optimizer)["param_groups"]
    universal_restore.complete(run.optimizer, groups)
    with_an_element(NAN)(run.optimizer.state[run.xs[0]]["exp_avg"])
    groups[0]["d"] = 0.5
    with pytest.raises(ValueError, match=r"exp_avg .* not finite"):
        universal_restore.complete(run.optimizer, groups)
    assert run.optimizer.d < 0.5


def test_a_half_done_step_cannot_be_loaded_into_and_nothing_changes() -> None:
    pair = Pair()
    pair.steps(0, 2)
    saved = snapshot(pair.optimizers[0])
    d = pair.optimizers[0].d
    pair.optimizers[0].step()
    with pytest.raises(RuntimeError, match="half done"):
        pair.optimizers[0].load_state_dict(saved)
    pair.optimizers[1].step()
    assert pair.optimizers[0].d >= d


def test_a_loaded_checkpoint_may_be_changed_or_loaded_again_afterwards() -> None:
    whole = Run("prodigy").steps(0, BEFORE)
    checkpoint = snapshot(whole.optimizer)
    other = Run("prodigy").take(whole.weights(), checkpoint)
    other.steps(BEFORE, 2)
    other.take(whole.weights(), checkpoint)
    for buffers in checkpoint["state"].values():
        for t in buffers.values():
            t.fill_(7)
    put_everywhere(d=5.0)(checkpoint)
    assert same(snapshot(other.optimizer), snapshot(whole.optimizer))
    assert same(snapshot(other.steps(BEFORE, AFTER).optimizer), snapshot(whole.steps(BEFORE, AFTER).optimizer))


def test_a_buffer_beyond_what_its_parameter_can_have_seen_is_refused() -> None:
    p = nn.Parameter(torch.ones(3))
    optimizer = dd.Prodigy([p], d0=1e-3)
    p.grad = torch.ones(3)
    optimizer.step()
    for name, value in (("exp_avg", 1e39), ("exp_avg_sq", 1e80)):
        checkpoint = optimizer.state_dict()
        checkpoint["state"][0] = checkpoint["state"][0] | {name: torch.full((3,), value, dtype=torch.float64)}
        with pytest.raises(ValueError, match=f"{name} .* as large as .* a parameter of torch.float32 cannot have had"):
            optimizer.load_state_dict(checkpoint)


def test_options_of_a_checkpoint_are_kept_as_they_are_read() -> None:
    """A slice given as 2.0 passed the check, and the load broke off in the middle of it."""
    run = Run("prodigy", {"slice_p": 2}).steps(0, BEFORE)
    checkpoint = snapshot(run.optimizer)
    put_everywhere(slice_p=2.0, betas=[0.9, 0.999])(checkpoint)
    other = Run("prodigy", {"slice_p": 2}).take(run.weights(), checkpoint)
    assert same(snapshot(other.optimizer), snapshot(run.optimizer))


def test_a_key_of_the_users_own_may_have_the_name_of_another_methods_option() -> None:
    run = Run("dadapt_sgd").steps(0, BEFORE)
    run.optimizer.param_groups[0]["betas"] = "mine"
    run.optimizer.param_groups[0]["betas"] = "still mine"
    checkpoint = snapshot(run.optimizer)
    other = Run("dadapt_sgd").take(run.weights(), checkpoint)
    assert other.optimizer.param_groups[0]["betas"] == "still mine"


# An option of each method that its groups must share, and that another run may have otherwise.
SHARED = {
    key: name
    for key, method in METHODS.items()
    for name in reversed(method.estimate_options)
    if name not in method.fixed_options and isinstance(method.options.defaults()[name], (float, tuple))
}


@pytest.mark.parametrize("key", SHARED)
def test_groups_of_one_estimate_that_differ_in_an_option_of_it_are_refused(key: str) -> None:
    """Those that the method names, not those of any other."""
    run = Run(key, groups=TWO_GROUPS).steps(0, BEFORE)
    saved, name = run.optimizer.state_dict(), SHARED[key]
    held = saved["param_groups"][0]
    value = held[name]
    saved["param_groups"][1][name] = tuple(v / 2 for v in value) if isinstance(value, tuple) else (value + 1) / 2
    with pytest.raises(ValueError, match=f"differ in {name} in the checkpoint"):
        Run(key, groups=TWO_GROUPS).optimizer.load_state_dict(saved)
