"""Check the settings of a StepSize that are assigned after its construction: right ones count, wrong ones raise at once."""

import copy
import logging
import pickle
from typing import Any

import pytest
import torch

import dadapt_dist as dd
from dadapt_dist.comm.communicator import ShardLayout
from tests.helpers.classes import ALL, WITHOUT_SUMS
from tests.helpers.registered import registrations_undone
from tests.helpers.toy_methods import ToyMechanicTorchMethod

WRONG: list[tuple[str, Any]] = [
    ("nonfinite", "x"), ("nonfinite", 1), ("sync", "x"), ("sync", None), ("before", "x"), ("before", None),
    ("freeze_after", "x"), ("freeze_after", 0), ("freeze_after", 1.5), ("freeze_after", True),
]  # fmt: skip


def trained(steps: int, name: str = "prodigy", **options: Any) -> tuple[dd.LearningRateFree, torch.nn.Parameter]:
    p = torch.nn.Parameter(torch.ones(3))
    optimizer = ALL[name]([p], **options)
    for _ in range(steps):
        p.grad = p.detach() - 3.0
        optimizer.step()
    return optimizer, p


@pytest.mark.parametrize("used", [False, True], ids=["alone", "in a run"])
@pytest.mark.parametrize(("name", "value"), WRONG, ids=str)
def test_a_wrong_setting_raises_when_it_is_assigned_and_changes_nothing(name: str, value: Any, used: bool) -> None:
    """It used to be taken for the default, or to fail in the middle of a later step."""
    step_size = trained(2)[0].step_size if used else dd.StepSize()
    before = getattr(step_size, name)
    with pytest.raises(
        ValueError, match=f"^{name}={value!r} (is not one of '?None|must be an integer|is not one of '\\w+', ')"
    ):
        setattr(step_size, name, value)
    assert getattr(step_size, name) == before


def test_settings_are_plain_attributes_to_read_and_survive_copies() -> None:
    """Nothing is called to read one, which a step does several times."""
    step_size = dd.StepSize(freeze_after=torch.tensor(4), sync="step")  # type: ignore[arg-type]
    assert {name: vars(step_size)[name] for name in ("sync", "nonfinite", "freeze_after", "before")} == {
        "sync": "step", "nonfinite": None, "freeze_after": 4, "before": "exact",
    }  # fmt: skip
    step_size.nonfinite = "skip"
    for twin in (copy.deepcopy(step_size), pickle.loads(pickle.dumps(step_size))):
        assert (twin.nonfinite, twin.freeze_after) == ("skip", 4)


def test_a_setting_that_is_assigned_counts_from_the_next_step_on() -> None:
    optimizer, p = trained(2)
    optimizer.step_size.nonfinite = "skip"
    before, p.grad = p.detach().clone(), torch.tensor([float("nan"), 1.0, 1.0])
    optimizer.step()
    assert torch.equal(p, before)
    optimizer.step_size.nonfinite = "raise"
    with pytest.raises(dd.NonFiniteError):
        optimizer.step()
    optimizer.step_size.freeze_after = 3
    p.grad = torch.ones(3)
    optimizer.step()
    optimizer.step()
    assert optimizer.step_size.frozen
    assert set(optimizer.state[p]) == {"exp_avg", "exp_avg_sq"}


def test_a_frozen_estimate_cannot_be_told_to_go_on() -> None:
    """Its buffers are gone; it used to fail in the next step, with an error that did not name the setting."""
    optimizer, p = trained(4, freeze_after=2)
    for later in (None, 9):
        with pytest.raises(
            ValueError, match=rf"^freeze_after={later}: d was frozen after 2 steps.*first load a checkpoint"
        ):
            optimizer.step_size.freeze_after = later
    optimizer.step_size.freeze_after = 3
    p.grad = torch.ones(3)
    optimizer.step()
    assert optimizer.step_size.frozen


def test_a_method_over_a_torch_optimizer_refuses_nonfinite_also_later(monkeypatch: pytest.MonkeyPatch) -> None:
    with registrations_undone():
        after = type("SummingMethod", (ToyMechanicTorchMethod,), {"name": "summing", "__doc__": "A variant."})
        optimizer = dd.optimizers.register(after)([torch.nn.Parameter(torch.ones(2))])
        optimizer.step_size.nonfinite = "skip"  # its sums come before the update
        optimizer.step_size.nonfinite = None
        monkeypatch.setattr(after, "after", after.before)
        with pytest.raises(
            ValueError, match="nonfinite='raise' needs the sums of a step before it is taken, and summing"
        ):
            optimizer.step_size.nonfinite = "raise"
        assert optimizer.step_size.nonfinite is None


@pytest.mark.parametrize("shared", [False, True])
def test_freezing_what_estimates_nothing_is_said_once(shared: bool, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, logger="dadapt_dist")
    for name in WITHOUT_SUMS:
        given: dict[str, Any] = {"step_size": dd.StepSize(freeze_after=2)} if shared else {"freeze_after": 2}
        optimizer, _ = trained(4, name, **given)
        if shared:
            trained(0, name, **given)
        (text,) = [text for text in caplog.messages if "freeze_after" in text]
        assert text.startswith(f"freeze_after=2 does nothing: {name} estimates nothing that could be frozen")
        caplog.clear()
        optimizer.step_size.freeze_after = 9
        assert [text for text in caplog.messages if text.startswith("freeze_after=9 does nothing")]
        caplog.clear()
    for name in ALL.keys() - {*WITHOUT_SUMS}:
        trained(0, name, freeze_after=2)
    assert not [text for text in caplog.messages if "freeze_after" in text]


@pytest.mark.parametrize(
    "wrong", [3, 1.5, object(), ShardLayout, torch.ones(1)], ids=lambda wrong: type(wrong).__name__
)
def test_what_is_no_process_group_is_refused_where_it_is_given(wrong: Any) -> None:
    """In one process nobody ever asked it for anything."""
    p = torch.nn.Parameter(torch.ones(2))
    for make in (lambda: dd.StepSize(process_group=wrong), lambda: dd.Prodigy([p], process_group=wrong)):
        with pytest.raises(
            TypeError, match=r"^process_group=.* must be a process group of torch\.distributed or None: leave"
        ):
            make()
