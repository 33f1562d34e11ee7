"""Are the live objects of a class found, whatever the collector was told?"""

import gc

from dadapt_dist.sharding.live_objects import living


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


def test_what_was_set_aside_is_found_last_and_stays_set_aside() -> None:
    old = Thing()
    gc.freeze()
    try:
        new = Child()
        count = gc.get_freeze_count()
        assert [id(item) for item in living(Thing)] == [id(new), id(old)]
        assert gc.get_freeze_count() > count / 2
    finally:
        gc.unfreeze()


def test_what_is_found_at_once_leaves_the_rest_untouched() -> None:
    gc.freeze()
    try:
        new, count = Thing(), gc.get_freeze_count()
        assert next(living(Thing)) is new
        assert gc.get_freeze_count() == count
    finally:
        gc.unfreeze()
