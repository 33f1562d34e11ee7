"""Let dadapt_dist's optimizers stand in for the packages prodigyopt and dadaptation, in programs that import these by name.

`dadapt_dist/stand_ins/` has a folder for each package, and in it a package of that name. Such a folder on sys.path, before
site-packages, and in PYTHONPATH, is all there is to it: it holds for every Python process that this one starts, too.
"""

import logging
import os
import sys
from collections.abc import Iterable
from importlib.machinery import PathFinder
from pathlib import Path

logger = logging.getLogger("dadapt_dist.run")
NAMES = ("prodigyopt", "dadaptation")
"""Packages that can be stood in for."""
FOLDER = Path(__file__).parents[1] / "stand_ins"
_said: set[str] = set()


def check_names(text: str) -> tuple[str, ...]:
    """The packages of `--as NAME,NAME`; ValueError for one that nothing stands in for."""
    names = tuple(name.strip() for name in text.split(","))
    unknown = [name for name in names if name not in NAMES]
    if unknown:
        raise ValueError(f"--as {text}: {unknown[0]!r} must be {' or '.join(NAMES)}, or both with a comma between them")
    return names


def enter(names: Iterable[str], *, after_first: bool) -> None:
    """Let these packages be dadapt_dist's, from their next import on, in this process and in those that it starts.

    Args:
        names: Of packages.
        after_first: Whether sys.path begins with the folder of the script.

    Raises:
        ValueError: the script's own folder has a module of that name, which comes first.
    """
    for name in names:
        own = PathFinder.find_spec(name, sys.path[:1]) if after_first else None
        if own is not None:
            raise ValueError(
                f"--as {name}: {own.origin} stands beside the script and comes first. Rename it, or leave {name} out of --as"
            )
        folder = str(FOLDER / name)
        sys.path.insert(int(after_first), folder)
        before = os.environ.get("PYTHONPATH")
        if folder not in (before or "").split(os.pathsep):
            os.environ["PYTHONPATH"] = folder if not before else os.pathsep.join((folder, before))


def announce(package: str, classes: Iterable[str]) -> None:
    """Log, in the process that imports it, what a package is."""
    logger.info("%s is dadapt_dist, which stands in for it: %s", package, ", ".join(classes))


def warn_of_another(name: str, ours: str) -> None:
    """Log, once, that a method stands in for an earlier form of it."""
    if name not in _said:
        _said.add(name)
        logger.warning(
            "%s is an earlier form of %s. dadapt_dist.%s stands in for it: its options are the same, its numbers differ",
            name, ours, ours,
        )  # fmt: skip
