"""Check that a likely mistake gives one warning with its cure on one rank, and that a d set by hand stays."""

import logging
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler

import dadapt_dist as dd
from dadapt_dist import schedules
from dadapt_dist.engine.diagnostics import advice_texts
from dadapt_dist.methods import METHODS
from tests.helpers.classes import ALL, BY_DISTANCE, D_MAY_FALL, WITH_D, make
from tests.helpers.layouts import LAYOUTS
from tests.helpers.pool import WorkerPool

PAGE = Path(__file__).parents[3] / "docs" / "troubleshooting.md"
Lr = Callable[[int], float]


def model(dtype: torch.dtype = torch.float32) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 12), nn.Tanh(), nn.Linear(12, 1)).to(dtype)


def train(
    steps: int,
    optimizer: dd.LearningRateFree,
    net: nn.Module,
    *,
    schedule: Any = None,
    lr: Lr | None = None,
    bad: Callable[[int], bool] = lambda step: False,
) -> None:
    """A plain loop. lr: sets it by hand in every step. bad: the steps whose gradients are NaN."""
    scheduler = schedule(optimizer) if schedule else None
    generator = torch.Generator().manual_seed(1)
    dtype = next(net.parameters()).dtype
    for step in range(steps):
        x = torch.randn(16, 6, generator=generator).to(dtype)
        optimizer.zero_grad()
        (net(x) - x.sin().sum(1, keepdim=True)).square().mean().backward()
        if bad(step):
            for p in net.parameters():
                p.grad = torch.full_like(p, math.nan)
        if lr is not None:
            for group in optimizer.param_groups:
                group["lr"] = lr(step)
        optimizer.step()
        if scheduler is not None:
            scheduler.step()


def advice(log: pytest.LogCaptureFixture) -> list[str]:
    records = [record for record in log.records if record.name == "dadapt_dist.engine.diagnostics.advice"]
    assert all(record.levelno == logging.WARNING for record in records)
    return [record.getMessage() for record in records]


def run(log: pytest.LogCaptureFixture, steps: int, method: str = "prodigy", **given: Any) -> list[str]:
    """What is said of a run of so many steps."""
    loop = {name: given.pop(name) for name in ("schedule", "lr_by_hand", "bad") if name in given}
    if "lr_by_hand" in loop:
        loop["lr"] = loop.pop("lr_by_hand")
    net, groups = model(given.pop("dtype", torch.float32)), given.pop("groups", None)
    train(steps, ALL[method](groups(net) if groups else net.parameters(), **given), net, **loop)
    return advice(log)


def constant(value: float) -> Any:
    return lambda optimizer: lr_scheduler.LambdaLR(optimizer, lambda step: value)


SEE = "See docs/troubleshooting.md#"
LR = (
    "lr is {0}, not 1.0: it multiplies d, so every step is {0} times the one that was found, and d itself may never "
    "leave d0. Give the optimizer lr=1.0, and a schedule a peak of 1.0 (OneCycleLR: max_lr; DeepSpeed: warmup_max_lr); "
    "where the value comes from the trainer's learning_rate (5e-5 by default), set learning_rate=1.0. To scale the step "
    "of Prodigy, use d_coef. "
    f"{SEE}lr-is-not-10."
)


@pytest.mark.parametrize("method", [name for name in ALL if not METHODS[name].chosen_lr])
def test_an_lr_kept_from_habit_is_named_once(method: str, library_log: Any) -> None:
    assert run(library_log, 230, method, lr=1e-3) == [LR.format("0.001")]
    assert library_log.messages == [LR.format("0.001")]


@pytest.mark.parametrize(
    ("given", "peak"),
    [
        ({"schedule": lambda o: lr_scheduler.OneCycleLR(o, max_lr=1e-3, total_steps=50)}, "0.001"),
        ({"lr": 0.05, "schedule": lambda o: lr_scheduler.CosineAnnealingLR(o, 50)}, "0.05"),
        ({"lr": 5e-5, "schedule": lambda o: lr_scheduler.LinearLR(o, 0.01, total_iters=40)}, "5e-05"),
        ({"lr_by_hand": lambda step: min(1e-3, (step + 1) / 2e4)}, ""),
        ({"lr_by_hand": lambda step: 1e-2 * (1 - step / 50)}, ""),
    ],
    ids=["one cycle", "cosine", "warm-up to it", "warm-up by hand", "falling by hand"],
)
def test_a_schedule_with_a_low_peak_is_named_once(given: dict[str, Any], peak: str, library_log: Any) -> None:
    said = run(library_log, 49, **given)
    assert len(said) == 1
    assert re.match(r"lr is [\d.e-]+, not 1\.0", said[0])
    if "lr_by_hand" not in given:
        assert said == [LR.format(peak)]


def halves(net: nn.Sequential, lr: float) -> list[dict[str, Any]]:
    return [{"params": net[0].parameters()}, {"params": net[2].parameters(), "lr": lr}]


SAID: dict[str, tuple[int, dict[str, Any], str]] = {
    "groups": (
        20, {"groups": lambda net: halves(net, 1e-4)},
        (
            "the lr of the groups are far apart, 1 and 0.0001: lr multiplies d, so a group with 0.0001 takes steps of "
            "0.0001 times the one that was found. If these are learning rates of another optimizer, give factors of 1.0 "
            "instead (0.1 for a tenth of the step, 0 for a group that shall not train). "
            f"{SEE}groups-with-learning-rates-of-their-own."
        ),
    ),
    "warm-up": (
        20, {"schedule": lambda o: schedules.linear_decay_with_warmup(o, 40, 0.5)},
        (
            "the schedule warms up (lr starts at 0.05 of 1) and safeguard_warmup is False: while lr is small, Prodigy's d "
            "can come out too large. Give Prodigy recipe='auto' or safeguard_warmup=True, or leave the warm-up out. "
            f"{SEE}a-warm-up-without-safeguard_warmup."
        ),
    ),
    "bfloat16": (
        230, {"dtype": torch.bfloat16},
        (
            "most parameters are held in bfloat16 alone: steps that are small beside a weight are rounded away, and d may "
            "never leave d0. Keep the parameters in float32 and compute in a lower precision (torch.autocast, "
            "MixedPrecisionPolicy of FSDP2, bf16 of DeepSpeed). "
            f"{SEE}parameters-held-in-bfloat16-or-float16."
        ),
    ),
    "d0": (
        230, {"d0": 10.0},
        (
            "d0=10 is larger than any d that is found in practice, and d never falls: the first steps may ruin the "
            "weights. Leave d0 at its default, 1e-6: d grows from there by itself. "
            f"{SEE}d0-is-too-large."
        ),
    ),
    "d0 above d": (
        230, {"d0": 0.5},
        (
            "d is still d0=0.5 after 200 steps with gradients. d0 may be above the d to be found, and d never falls: "
            "leave it at its default, 1e-6. "
            f"{SEE}d-stays-at-d0."
        ),
    ),
    "no growth": (
        230, {"method": "dadapt_adam", "growth_rate": 1.0},
        (
            "d is still d0=1e-06 after 200 steps with gradients. growth_rate=1 keeps it there: leave it at its default, "
            "inf. "
            f"{SEE}d-stays-at-d0."
        ),
    ),
    "frozen": (
        230, {"freeze_after": 5, "lr": 0.1},
        (
            "freeze_after=5 has frozen d while it still was d0=1e-06: every further step is that small. Freeze it when d "
            "no longer grows, after some thousand steps, or leave freeze_after out. "
            f"{SEE}d-was-frozen-at-d0."
        ),
    ),
    "NaN": (
        80, {"bad": lambda step: step >= 40},
        (
            "every step since step 41 was held because a gradient was not finite, or so large that the step would overflow: "
            "d is held for good, and such elements no longer move. Find where it begins "
            '(torch.autograd.set_detect_anomaly(True), or nonfinite="raise", which stops at the first), and go on from a '
            "checkpoint of before. "
            f"{SEE}every-step-is-held."
        ),
    ),
    "past the end": (
        80, {"schedule": lambda o: schedules.linear_decay_with_warmup(o, 40, 0.0)},
        (
            "lr has been 0 in all groups since step 40, and nothing trains: a schedule that is past its end stays there. "
            "Give it the number of optimizer.step() calls of the whole run (not of batches when gradients are "
            "accumulated, nor epochs), or end the run. "
            f"{SEE}lr-is-0."
        ),
    ),
    "never above 0": (
        230, {"lr": 0.0},
        (
            "lr has been 0 in all groups in the first 200 calls of step(), and nothing has moved: a schedule that counts "
            "epochs or divides integers may begin at 0 for long. Let it rise from the first step on. "
            f"{SEE}lr-is-0."
        ),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", SAID)
def test_a_likely_mistake_is_said_once_with_its_cure(name: str, library_log: Any) -> None:
    steps, given, text = SAID[name]
    assert run(library_log, steps, **given) == [text]


def test_weights_that_are_written_after_the_step_are_named_among_the_causes(library_log: Any) -> None:
    net = model()
    before = [p.detach().clone() for p in net.parameters()]

    def back(optimizer: Any, args: Any, kwargs: Any) -> None:
        for p, was in zip(net.parameters(), before, strict=True):
            p.data.copy_(was)

    optimizer = dd.Prodigy(net.parameters())
    optimizer.register_step_post_hook(back)
    train(230, optimizer, net)
    text = (
        "d is still d0=1e-06 after 200 steps with gradients. Either the steps are lost (parameters in bfloat16 alone, "
        "weights that are overwritten after the step) or nearly 0 (lr, layer_scale, clipping to a tiny norm), or the "
        f"gradients have no direction in common. {SEE}d-stays-at-d0."
    )
    assert advice(library_log) == [text]


HEALTHY: dict[str, dict[str, Any]] = {
    **{method: {"method": method} for method in ALL},
    "one cycle": {
        "safeguard_warmup": True, "schedule": lambda o: lr_scheduler.OneCycleLR(o, max_lr=1.0, total_steps=240),
    },
    "warm-up": {"safeguard_warmup": True, "schedule": lambda o: schedules.linear_decay_with_warmup(o, 240, 0.6)},
    "by hand": {"safeguard_warmup": True, "lr_by_hand": lambda step: min(1.0, (step + 1) / 2000)},
    "by epochs": {
        "safeguard_warmup": True, "schedule": lambda o: lr_scheduler.LambdaLR(o, lambda step: (step // 100 + 1) / 100),
    },
    "adam warms up": {"method": "dadapt_adam", "schedule": lambda o: schedules.cosine_with_warmup(o, 240, 0.3)},
    "layer-wise": {"groups": lambda net: [{"params": [p], "lr": 0.05**i} for i, p in enumerate(net.parameters())]},
    "a group stands": {"groups": lambda net: halves(net, 0.0)},
    "NaN at times": {"bad": lambda step: step % 3 > 0},
    "NaN for a while": {"bad": lambda step: 50 <= step < 75},
    "a dip to 0": {"schedule": lambda o: lr_scheduler.CosineAnnealingLR(o, 60)},
    "frozen": {"freeze_after": 60},
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", HEALTHY)
def test_nothing_is_said_of_a_right_run(name: str, library_log: Any) -> None:
    steps = 120 if name == "dadapt_lion" else 230  # at a constant lr Lion's d grows without end
    assert run(library_log, steps, **HEALTHY[name]) == []


def test_float32_weights_under_autocast_are_right(library_log: Any) -> None:
    net = model()
    optimizer = dd.Prodigy(net.parameters())
    for _ in range(20):
        with torch.autocast("cpu", torch.bfloat16):
            loss = net(torch.ones(4, 6)).float().square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert advice(library_log) == []


def test_advice_can_be_switched_off(library_log: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DADAPT_DIST_ADVICE", "off")
    assert run(library_log, 30, lr=1e-3) == []
    monkeypatch.delenv("DADAPT_DIST_ADVICE")
    logging.getLogger("dadapt_dist.engine.diagnostics.advice").setLevel("ERROR")
    try:
        assert run(library_log, 30, lr=1e-3) == []
    finally:
        logging.getLogger("dadapt_dist.engine.diagnostics.advice").setLevel(logging.NOTSET)
    assert run(library_log, 30, lr=1e-3) == [LR.format("0.001")]


def test_a_run_that_goes_on_from_a_checkpoint_was_told_before(library_log: Any) -> None:
    net = model()
    optimizer = dd.Prodigy(net.parameters(), lr=1e-3)
    train(5, optimizer, net)
    assert advice(library_log) == []
    other = dd.Prodigy(net.parameters(), lr=1e-3)
    other.load_state_dict(optimizer.state_dict())
    train(30, other, net)
    assert advice(library_log) == []


def test_what_a_callback_has_said_is_not_said_again(library_log: Any) -> None:
    from dadapt_dist.integrations.advice import mistakes

    net = model()
    optimizer = dd.Prodigy(halves(net, 1e-4), lr=1e-3)
    assert list(mistakes(optimizer, None, clip=0.0, params=net.parameters())) == [LR.format("0.001")]
    train(30, optimizer, net)
    assert advice(library_log) == []


def test_every_section_that_is_named_is_on_the_page() -> None:
    headings = re.findall(r"^#+ (.+)$", PAGE.read_text(), re.MULTILINE)
    there = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
    named = set(re.findall(r"see\('([^']+)'\)", Path(advice_texts.__file__).read_text()))
    assert len(named) == 13
    assert named <= there


def said_on_a_rank() -> list[str]:
    said: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger("dadapt_dist.engine.diagnostics.advice").addHandler(handler)
    try:
        net = model()
        train(230, dd.Prodigy(net.parameters(), lr=1e-3), net)
    finally:
        logging.getLogger("dadapt_dist.engine.diagnostics.advice").removeHandler(handler)
    return said


@pytest.mark.slow
def test_one_rank_speaks(pool2: WorkerPool) -> None:
    assert pool2.run(said_on_a_rank) == [[LR.format("0.001")], []]


# ---------------------------------------------------------------- d by hand


SET = {"first": (0, 1e3), "larger": (60, 3.0), "smaller": (60, 0.25)}
SETS = [(m, *SET[how]) for m in WITH_D for how in SET if m not in BY_DISTANCE or how != "smaller"]
# What grows in the very next step: D-Adapt AdaGrad by 18 % a step, before it was set and after; dual averaging, which is far
# from its goal; AdaGrad++ by rounding, and Adam++ by √10, the first step of an Adam without bias correction.
GROWING = {
    ("dadapt_adagrad", 0.25): 0.2,
    ("dual_averaging", 0.25): 0.2,
    ("adagrad_pp", 1e3): 1e-4,
    ("adam_pp", 1e3): 2.2,
}


@pytest.mark.parametrize(("method", "step", "factor"), SETS)
def test_a_d_that_is_set_stays_and_training_goes_on_from_it(method: str, step: int, factor: float) -> None:
    torch.manual_seed(0)
    weights = [nn.Parameter(torch.randn(5, 4)), nn.Parameter(torch.randn(7))]
    goals = [torch.randn_like(w) for w in weights]
    optimizer = ALL[method]([{"params": [w]} for w in weights])
    for k in range(step + 1):
        for w, goal in zip(weights, goals, strict=True):
            w.grad = w.detach() - goal
        if k == step:
            before, wanted = optimizer.d, optimizer.d * factor  # type: ignore[operator]
            optimizer.param_groups[1]["d"] = wanted
            assert optimizer.d == float(optimizer.param_groups[0]["d"]) == wanted
        optimizer.step()
    falls = method in D_MAY_FALL  # from one step to the next, also by itself
    assert optimizer.d == pytest.approx(wanted, rel=0.2 if falls else GROWING.get((method, factor), 1e-6))
    assert wanted != before
    other = ALL[method]([{"params": [w]} for w in weights])
    other.load_state_dict(optimizer.state_dict())
    assert other.d == optimizer.d


@pytest.mark.parametrize("value", [0.0, -1.0, math.nan, math.inf, "much"])
def test_a_d_that_cannot_be_raises_and_changes_nothing(value: Any) -> None:
    net = model()
    optimizer = dd.Prodigy(net.parameters())
    train(10, optimizer, net)
    before = optimizer.state_dict()["param_groups"]
    weights = [p.detach().clone() for p in net.parameters()]
    group = optimizer.param_groups[0]
    view = group["d"]
    for what in (optimizer.step, optimizer.state_dict, lambda: optimizer.d, lambda: optimizer.set_d(value)):
        group["d"] = value
        with pytest.raises(ValueError, match=r"d=.* must be a number > 0\. .*d0"):
            what()
        assert group["d"] is view
    assert optimizer.state_dict()["param_groups"] == before
    assert all(map(torch.equal, net.parameters(), weights))


@pytest.mark.parametrize("method", ["dadapt_adagrad", "dadapt_adan"])
def test_a_loaded_d_is_lowered_after_a_step_or_the_error_says_so(method: str) -> None:
    net = model()
    optimizer = ALL[method](net.parameters())
    train(60, optimizer, net)
    optimizer.load_state_dict(optimizer.state_dict())
    optimizer.param_groups[0].update(d=optimizer.d / 4, held=3.0)  # type: ignore[operator]
    with pytest.raises(ValueError, match=r"can be lowered only after a step.*Take a step first"):
        optimizer.step()
    assert optimizer.step_size.held_steps == 0
    with pytest.raises(ValueError, match=r"can be lowered only after a step.*Take a step first"):
        optimizer.set_d(optimizer.d / 4)  # type: ignore[operator]
    train(1, optimizer, net)
    optimizer.param_groups[0]["d"] = wanted = optimizer.d / 4  # type: ignore[operator]
    train(1, optimizer, net)
    assert optimizer.d == pytest.approx(wanted, rel=0.5)


def ds_set_by_hand(method: str) -> list[Any]:
    job = LAYOUTS["fsdp2"][1]()
    optimizer, ds = make(method, job.params()), []
    for step in range(8):
        optimizer.zero_grad()
        job.backward(step)
        if step == 5:
            optimizer.param_groups[0]["d"] = 0.5
        optimizer.step()
        ds.append(optimizer.d)
    return ds


@pytest.mark.parametrize("method", WITH_D)
def test_a_d_that_is_set_stays_on_all_ranks(method: str, pool2: WorkerPool) -> None:
    first, second = pool2.run(ds_set_by_hand, method)
    assert first == second
    falls = method in D_MAY_FALL  # and grows, by what the first steps have won, from where it is set
    assert first[4] < 0.5 <= first[5] or falls
    assert first[5] == pytest.approx(0.5, rel=0.6 if method == "adam_pp" else 0.5 if falls else 0.2)  # it overshoots
