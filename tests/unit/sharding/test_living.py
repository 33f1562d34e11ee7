"""Check that the search finds the live objects of a class and leaves the garbage collector unchanged."""

import gc
from pathlib import Path

import pytest
import torch
from torch import nn

import dadapt_dist as dd
from dadapt_dist.sharding import live_objects
from dadapt_dist.sharding.live_objects import Finder, living
from tests.helpers.wrapper import Wrapper


class Thing:
    """Has a class but no list of its instances."""


class Child(Thing):
    pass


class Slim(Child):
    __slots__ = ()


def found() -> set[int]:
    return {id(item) for item in living(Thing)}


def test_instances_of_a_class_and_its_subclasses_are_found_until_they_end() -> None:
    things = [Thing(), Child(), Slim()]
    assert found() == {id(thing) for thing in things}
    del things[1:]
    gc.collect()
    assert found() == {id(things[0])}


def test_what_was_set_aside_is_found_only_when_it_was_attached_and_stays_set_aside(
    library_log: pytest.LogCaptureFixture,
) -> None:
    old, other = Thing(), Child()
    gc.freeze()
    try:
        new, count = Child(), gc.get_freeze_count()
        assert [id(item) for item in living(Thing)] == [id(new)]
        live_objects.remember(other)
        assert [id(item) for item in living(Thing)] == [id(other), id(new)]
        assert gc.get_freeze_count() > count / 2
        live_objects._said.discard("thing")
        for _ in range(2):
            live_objects.warn_if_hidden("thing")
        said = [text for text in library_log.messages if "no live thing was found" in text]
        assert len(said) == 1
        assert "call dadapt_dist.attach(thing) before the first step" in said[0]
        assert old is not None
    finally:
        gc.unfreeze()


def test_nothing_is_said_where_nothing_is_hidden(library_log: pytest.LogCaptureFixture) -> None:
    gc.unfreeze()
    live_objects.warn_if_hidden("stranger")
    assert library_log.messages == []


def test_what_is_attached_is_not_kept_alive() -> None:
    thing = Slim2()
    live_objects.remember(thing)
    del thing
    gc.collect()
    assert list(living(Slim2)) == []


class Slim2:
    """Can be referred to weakly."""


def test_a_search_that_finds_nothing_comes_ever_more_seldom(monkeypatch: pytest.MonkeyPatch) -> None:
    searches: list[type] = []
    monkeypatch.setattr(live_objects, "_referrers", lambda cls: searches.append(cls) or [])
    finder = Finder()
    assert [finder.find(Thing, lambda item: True) for _ in range(20)] == [None] * 20
    assert len(searches) == 5  # at 1, 2, 4, 8 and 16


def test_what_was_found_is_kept_while_it_is_alive_and_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    searches: list[type] = []
    first, second = Thing(), Thing()
    monkeypatch.setattr(live_objects, "_referrers", lambda cls: searches.append(cls) or [first, second])
    finder = Finder()
    assert finder.find(Thing, lambda item: item is first) is first
    assert finder.find(Thing, lambda item: item is first) is first
    found = [finder.find(Thing, lambda item: item is second) for _ in range(3)]
    assert found == [None, None, second]
    assert len(searches) == 1, "the second was there when the first was found"


def test_what_fits_only_later_is_found_at_once_however_often_it_was_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """A scaler takes an optimizer on in its own step; until then whoever reads the attribute gets no."""
    things, fit = [Thing()], []
    monkeypatch.setattr(live_objects, "_referrers", lambda cls: things)
    finder = Finder()
    assert [finder.find(Thing, fit.__contains__) for _ in range(6)] == [None] * 6
    fit.append(things[0])
    assert finder.find(Thing, fit.__contains__) is things[0]


@pytest.mark.parametrize("thing", [nn.Linear(2, 2), torch.optim.SGD([nn.Parameter(torch.ones(1))]), 3, None], ids=str)
def test_what_holds_nothing_to_attach_is_refused_with_what_does(thing: object) -> None:
    with pytest.raises(
        TypeError, match=f"{type(thing).__name__} holds nothing to attach: give a DeepSpeed engine, an FSDP1"
    ):
        dd.attach(thing)


def state_of_the_collector() -> tuple[object, ...]:
    return gc.isenabled(), gc.get_threshold(), gc.get_debug(), gc.get_freeze_count() > 0, [*gc.callbacks]


@pytest.mark.parametrize("frozen", [False, True])
def test_the_garbage_collector_is_asked_and_never_told_anything(
    frozen: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Neither by a search for scalers and wrappers nor by construction, steps, saving and loading."""
    if frozen:
        gc.freeze()
    try:
        told: list[str] = []
        for name in ("collect", "freeze", "unfreeze", "enable", "disable", "set_threshold", "set_debug"):
            monkeypatch.setattr(gc, name, lambda *_, name=name: told.append(name))
        before = state_of_the_collector()
        model, scaler = nn.Linear(3, 1), torch.amp.GradScaler("cpu")
        optimizer = dd.Prodigy(model.parameters())
        dd.attach(scaler)
        for handle in (optimizer, Wrapper(optimizer)):
            scaler.scale(model(torch.ones(2, 3)).sum()).backward()
            scaler.step(handle)
            scaler.update()
        torch.save(optimizer.state_dict(), tmp_path / "saved.pt")
        optimizer.load_state_dict(torch.load(tmp_path / "saved.pt"))
        optimizer.step()
        assert (told, state_of_the_collector()) == ([], before)
    finally:
        monkeypatch.undo()
        gc.unfreeze()
