"""Check the options that the groups of one estimate share, and those that a run keeps to its end."""

from collections.abc import Iterable

from ..methods.base import Options


def check_kept(begun: Options, now: Options, names: Iterable[str]) -> None:
    """Raise ValueError for an option that is another one than the estimate began with."""
    for name in names:
        if now.get(name) != begun.get(name):
            raise ValueError(
                f"a group of the estimate {now['estimate']!r} has been given {name}={now.get(name)!r}, and the run has begun "
                f"with {name}={begun.get(name)!r}, which it keeps to its end. Set it back, or build an optimizer with it."
            )


def check_same(first: Options, other: Options, names: Iterable[str]) -> None:
    """Raise ValueError for two groups of one estimate that differ in an option of which it has one."""
    for name in names:
        if first.get(name) != other.get(name):
            raise ValueError(
                f"two groups of the estimate {first['estimate']!r} differ in {name}: {first[name]!r} and {other[name]!r}. One d "
                f'has one {name}: give both groups the same, or one of them an "estimate" of its own.'
            )
