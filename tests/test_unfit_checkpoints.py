"""Is a checkpoint that does not fit refused, by the name of what is wrong, with nothing changed?"""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from .runs import our_step
from .test_state_dict import AFTER, BEFORE, TWO_GROUPS, Run, same, snapshot


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


UNFIT: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "another method": (put("method", "dadapt_adam"), "dadapt_adam.*prodigy"),
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
