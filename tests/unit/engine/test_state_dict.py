"""Check that a loaded optimizer continues as if it had never been interrupted, in one process."""

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import dadapt_dist as dd
from tests.helpers.classes import ALL, ALWAYS_BEFORE, WITH_D, WITHOUT_SUMS
from tests.helpers.resumed import AFTER, BEFORE, TWO_GROUPS, Pair, Run, same, snapshot, through_a_file
from tests.helpers.runs import our_step

TWO_ESTIMATES: list[dict[str, Any]] = [{"indices": [0, 3]}, {"indices": [2, 1], "estimate": "rest"}]

CASES: list[tuple[str, dict[str, Any], list[dict[str, Any]] | None]] = [
    *((key, {}, None) for key in ALL),
    *((key, {"lr": 0.7, "state_dtype": torch.float64}, None) for key in ALL),
    *((key, {"state_dtype": torch.float64}, TWO_GROUPS) for key in ALL),
    *((key, {"freeze_after": 9}, TWO_ESTIMATES) for key in (*ALWAYS_BEFORE, *WITHOUT_SUMS)),
    ("prodigy", {"weight_decay": 0.1, "use_bias_correction": True, "d0": 1e-2}, TWO_GROUPS),
    ("prodigy", {"d_coef": 2.0, "growth_rate": 1.3, "d0": 1e-2}, TWO_GROUPS),
    ("prodigy", {"safeguard_warmup": True, "decouple": False, "weight_decay": 0.1, "beta3": 0.9}, None),
    ("prodigy", {"slice_p": 3}, TWO_GROUPS),
    ("prodigy", {"slice_p": 11, "betas": (0.0, 0.99)}, None),
    ("prodigy", {"betas": (0.0, 0.99)}, TWO_ESTIMATES),
    ("prodigy", {}, TWO_ESTIMATES),
    ("prodigy", {"freeze_after": 4}, None),
    ("prodigy", {"freeze_after": 9}, None),
    ("prodigy", {"recipe": "auto", "total_steps": 12, "weight_decay": 0.1, "d0": 1e-2}, TWO_GROUPS),
    ("prodigy", {"recipe": "auto", "rms_cap": 5e-3, "total_steps": 40, "d0": 1e-2}, TWO_ESTIMATES),
    ("prodigy", {"recipe": "auto", "rms_cap": 1e-4, "freeze_after": 4, "slice_p": 3}, None),
    ("prodigy", {"exact_bias_correction": True, "betas": (0.0, 0.99), "safeguard_warmup": True}, None),
    ("prodigy", {"rms_cap": 1e-4, "nonfinite": "skip"}, TWO_GROUPS),
    ("prodigy", {"nonfinite": "skip", "maximize": False, "layer_scale": 0.5}, None),
    ("dadapt_adam", {"decouple": True, "weight_decay": 0.1, "use_bias_correction": True}, TWO_ESTIMATES),
    ("dadapt_sgd", {"momentum": 0.9, "weight_decay": 0.1}, TWO_ESTIMATES),
    ("dadapt_adagrad", {"momentum": 0.5}, TWO_GROUPS),
    ("dadapt_adan", {"no_prox": True}, TWO_ESTIMATES),
    ("dadapt_lion", {"weight_decay": 0.01, "freeze_after": 4}, TWO_GROUPS),
]  # fmt: skip


def largest(d: float | dict[str, float]) -> float:
    return max(d.values()) if isinstance(d, dict) else d


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("key", "options", "groups"), CASES, ids=str)
def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(
    key: str, options: dict[str, Any], groups: list[dict[str, Any]] | None, dtype: torch.dtype
) -> None:
    whole = Run(key, options, groups, dtype=dtype).steps(0, BEFORE)
    weights, checkpoint = whole.weights(), through_a_file(whole.optimizer.state_dict())
    resumed = Run(key, options, groups, dtype=dtype).take(weights, checkpoint)

    assert same(snapshot(resumed.optimizer), snapshot(whole.optimizer))
    d = largest(whole.optimizer.d)
    whole.steps(BEFORE, AFTER)
    resumed.steps(BEFORE, AFTER)

    assert same(snapshot(resumed.optimizer), snapshot(whole.optimizer))
    assert same(resumed.weights(), whole.weights())
    frozen = options.get("freeze_after", BEFORE + 1) <= BEFORE
    assert frozen or key not in WITH_D or largest(whole.optimizer.d) > 1.2 * d, (
        "d never moved: the comparison would be empty"
    )


@pytest.mark.parametrize("key", [key for key in ALL if key not in ("dog", "dowg")])  # whose x0 has bfloat16 weights
def test_float32_buffers_of_bfloat16_parameters_are_saved_and_loaded_as_float32(key: str) -> None:
    run = Run(key, dtype=torch.bfloat16).steps(0, BEFORE)
    other = Run(key, dtype=torch.bfloat16).take(run.weights(), run.optimizer.state_dict())

    for x in other.xs:
        assert {t.dtype for t in other.optimizer.state[x].values()} == {torch.float32}
    low = [t.bfloat16().float() for x in run.xs for t in run.optimizer.state[x].values()]
    kept = [t for x in other.xs for t in other.optimizer.state[x].values()]
    assert not same(kept, low), "the values would survive bfloat16: the test would be empty"


def test_loading_never_lowers_the_precision_of_the_checkpoint() -> None:
    run = Run("prodigy", {"state_dtype": torch.float64}, dtype=torch.float32).steps(0, BEFORE)
    other = Run("prodigy", {"state_dtype": torch.float32}, dtype=torch.float32)
    other.take(run.weights(), run.optimizer.state_dict())

    assert {t.dtype for x in other.xs for t in other.optimizer.state[x].values()} == {torch.float64}
    assert same(snapshot(other.optimizer)["state"], snapshot(run.optimizer)["state"])


@pytest.mark.parametrize("options", [{}, {"slice_p": 3}], ids=str)
def test_two_optimizers_loaded_from_one_checkpoint_share_nothing_with_it_or_each_other(options: dict[str, Any]) -> None:
    run = Run("prodigy", options, TWO_ESTIMATES).steps(0, BEFORE)
    weights, checkpoint = run.weights(), snapshot(run.optimizer)
    kept = copy.deepcopy(checkpoint)
    first = Run("prodigy", options, TWO_ESTIMATES).take(weights, checkpoint)
    second = Run("prodigy", options, TWO_ESTIMATES).take(weights, checkpoint)
    before = snapshot(second.optimizer)
    first.steps(BEFORE, 3)

    assert same(checkpoint, kept)
    assert same(snapshot(second.optimizer), before)
    run.steps(BEFORE, 3)
    assert same(snapshot(first.optimizer), snapshot(run.optimizer))
    assert same(snapshot(second.steps(BEFORE, 3).optimizer), snapshot(run.optimizer))


def test_the_group_keys_are_the_same_before_and_after_steps_and_loading() -> None:
    run = Run("dadapt_sgd")
    keys = set(run.optimizer.state_dict()["param_groups"][0])
    run.steps(0, 3)
    assert set(run.optimizer.state_dict()["param_groups"][0]) == keys
    run.optimizer.load_state_dict(run.optimizer.state_dict())
    assert set(run.optimizer.state_dict()["param_groups"][0]) == keys
    values = run.optimizer.state_dict()["param_groups"][0]
    plain = (int, float, str, bool, list, tuple, type(None))
    assert {key for key, value in values.items() if not isinstance(value, plain)} == set()


def test_options_of_the_checkpoint_replace_those_of_the_constructor() -> None:
    options = {"d_coef": 2.0, "beta3": 0.9, "growth_rate": 1.5, "lr": 0.5}
    whole = Run("prodigy", options).steps(0, BEFORE)
    resumed = Run("prodigy").take(whole.weights(), whole.optimizer.state_dict())

    assert same(snapshot(resumed.steps(BEFORE, AFTER).optimizer), snapshot(whole.steps(BEFORE, AFTER).optimizer))
    with pytest.raises(ValueError, match="d_coef"):
        resumed.optimizer.add_param_group({"params": [nn.Parameter(torch.ones(2))], **options, "d_coef": 1.0})


def test_names_of_parameters_and_keys_of_schedulers_survive() -> None:
    def build() -> dd.Prodigy:
        model = nn.Linear(2, 3)
        return dd.Prodigy([{"params": list(model.named_parameters()), "name": "all"}])

    optimizer = build()
    torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)
    other = build()
    other.load_state_dict(through_a_file(optimizer.state_dict()))

    group = other.param_groups[0]
    assert group["param_names"] == ["weight", "bias"]
    assert (group["name"], group["initial_lr"]) == ("all", 1.0)


def test_a_loaded_group_still_shows_the_current_d() -> None:
    run = Run("prodigy").steps(0, BEFORE)
    resumed = Run("prodigy").take(run.weights(), run.optimizer.state_dict())
    assert float(resumed.optimizer.param_groups[0]["d"]) == resumed.optimizer.d == run.optimizer.d
    resumed.steps(BEFORE, AFTER)
    assert float(resumed.optimizer.param_groups[0]["d"]) == resumed.optimizer.d > run.optimizer.d


@pytest.mark.parametrize(
    "clone", [copy.deepcopy, lambda item: pickle.loads(pickle.dumps(item))], ids=["deepcopy", "pickle"]
)
@pytest.mark.parametrize("key", ALL)
def test_a_copied_optimizer_goes_on_alone_like_the_original(key: str, clone: Callable[[Any], Any]) -> None:
    run = Run(key, {}, TWO_ESTIMATES).steps(0, BEFORE)
    optimizer, xs = clone((run.optimizer, run.xs))
    before = snapshot(run.optimizer)
    for step in range(BEFORE, BEFORE + AFTER):
        our_step(optimizer, xs, run.problem.gradients(step, xs))

    assert same(snapshot(run.optimizer), before)
    run.steps(BEFORE, AFTER)
    assert same(snapshot(optimizer), snapshot(run.optimizer))
    assert same([x.detach() for x in xs], run.weights())


def test_two_optimizers_with_one_step_size_resume_bit_for_bit() -> None:
    whole, resumed = Pair(), Pair()
    whole.steps(0, BEFORE)
    with torch.no_grad():
        for x, weight in zip(resumed.xs, whole.xs, strict=True):
            x.copy_(weight)
    for old, new in zip(whole.optimizers, resumed.optimizers, strict=True):
        new.load_state_dict(through_a_file(old.state_dict()))
    whole.steps(BEFORE, AFTER)
    resumed.steps(BEFORE, AFTER)

    assert same([x.detach() for x in resumed.xs], [x.detach() for x in whole.xs])
    for old, new in zip(whole.optimizers, resumed.optimizers, strict=True):
        assert same(snapshot(new), snapshot(old))
    assert whole.optimizers[0].d == whole.optimizers[1].d > 1e-3


def test_a_half_done_step_of_two_optimizers_cannot_be_saved() -> None:
    pair = Pair()
    pair.steps(0, 2)
    pair.optimizers[0].step()
    for optimizer in pair.optimizers:
        with pytest.raises(RuntimeError, match="half done"):
            optimizer.state_dict()
    pair.optimizers[1].step()
    pair.optimizers[0].state_dict()


def test_what_was_frozen_when_it_was_saved_may_train_when_it_is_loaded(library_log: pytest.LogCaptureFixture) -> None:
    """A rank may hold nothing but that. Buffers that were lost have no entry at all."""
    x = torch.nn.Parameter(torch.ones(3), requires_grad=False)
    step_size = dd.StepSize()
    first = dd.Prodigy([torch.nn.Parameter(torch.ones(3))], step_size=step_size)
    frozen = dd.Prodigy([x], step_size=step_size)
    first.param_groups[0]["params"][0].grad = torch.ones(3)
    for optimizer in (first, frozen):
        optimizer.step()
    saved = through_a_file(frozen.state_dict())
    later = dd.Prodigy([torch.nn.Parameter(torch.ones(3))])
    later.load_state_dict(saved)
    assert "no buffers of 1 trainable parameters: they start afresh" in library_log.text
    with pytest.raises(ValueError, match="holds no buffers of any parameter"):
        later.load_state_dict({**saved, "state": {}})


@pytest.mark.parametrize("options", [{}, {"estimates": "per_tensor"}], ids=["one", "per_tensor"])
def test_the_same_names_in_another_order_are_refused(options: dict[str, Any]) -> None:
    named = [(name, torch.nn.Parameter(torch.full((3,), value))) for name, value in (("a", 1.0), ("b", 9.0))]
    optimizer, turned = dd.Prodigy(named, **options), dd.Prodigy(named[::-1], **options)
    for _ in range(2):
        for _, p in named:
            p.grad = p.detach().clone()
        optimizer.step()
    with pytest.raises(ValueError, match=r"parameter 0 of the checkpoint is 'a', of the optimizer 'b'.*another order"):
        turned.load_state_dict(optimizer.state_dict())
    assert turned.step_size.steps == 0
    assert not turned.state
    renamed = dd.Prodigy([(f"module.{name}", p) for name, p in named], **options)
    renamed.load_state_dict(optimizer.state_dict())
    assert renamed.step_size.steps == 2


@pytest.mark.parametrize(("key", "options", "groups"), CASES, ids=str)
def test_a_state_dict_has_the_keys_of_the_live_groups(
    key: str, options: dict[str, Any], groups: list[dict[str, Any]] | None
) -> None:
    """Tools that flatten a state dict ask it for every key of every live group."""
    optimizer = Run(key, options, groups).steps(0, 3).optimizer
    for _ in range(2):
        saved = optimizer.state_dict()
        assert [{*group} for group in saved["param_groups"]] == [{*group} for group in optimizer.param_groups]
        optimizer.load_state_dict(through_a_file(saved))
