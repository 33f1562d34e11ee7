"""Work that several processes of pytest need is done by the first that asks; the others wait for it."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from filelock import FileLock


@contextmanager
def whole_once(factory: pytest.TempPathFactory, name: str) -> Iterator[tuple[Path, bool]]:
    """A folder of this run of pytest, and whether it is still to be filled. An error in the block leaves it unfilled."""
    base = factory.getbasetemp()
    folder = (base.parent if base.name.startswith("popen-") else base) / name
    with FileLock(f"{folder}.lock"):
        is_new = not (folder / "whole").exists()
        folder.mkdir(exist_ok=True)
        yield folder, is_new
        (folder / "whole").touch()
