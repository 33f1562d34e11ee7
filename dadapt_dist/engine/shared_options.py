"""Check the options that the groups of one estimate share, and those that a run keeps to its end."""

from collections.abc import Iterable

from ..methods.base import Options


def differs(one: Options, other: Options, name: str) -> bool:
    """Whether two groups have different values of an option. One that is absent is off, as None and False are.

    A list is the tuple of the same numbers: JSON and torch's checkpoint tools make one of the other.
    """
    values = [options.get(name) for options in (one, other)]
    values = [tuple(value) if isinstance(value, list) else None if value is False else value for value in values]
    return bool(values[0] != values[1])


def check_kept(begun: Options, now: Options, names: Iterable[str]) -> None:
    """Raise ValueError for an option that is another one than the estimate began with."""
    for name in names:
        if differs(now, begun, name):
            raise ValueError(
                f"a group of the estimate {now['estimate']!r} has been given {name}={now.get(name)!r}, and the run has begun "
                f"with {name}={begun.get(name)!r}, which it keeps to its end. Set it back, or build an optimizer with it."
            )


def check_same(first: Options, other: Options, names: Iterable[str]) -> None:
    """Raise ValueError for two groups of one estimate that differ in an option of which it has one."""
    for name in names:
        if differs(first, other, name):
            values = f"{first.get(name)!r} and {other.get(name)!r}"
            raise ValueError(
                f"two groups of the estimate {first['estimate']!r} differ in {name}: {values}. One d "
                f'has one {name}: give both groups the same, or one of them an "estimate" of its own.'
            )
