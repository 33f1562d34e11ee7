"""Tests of the script that compares two checkouts."""

import subprocess
import sys
from pathlib import Path

import pytest

from docs.compare_checkouts import Checkout

ROOT = Path(__file__).parents[2]


@pytest.mark.matrix
def test_a_checkout_compared_with_itself_takes_as_long() -> None:
    line = [sys.executable, "-m", "docs.compare_checkouts", "--before", str(ROOT), "--case", "tiny", "--rounds", "20"]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    (found,) = [row for row in done.stdout.splitlines() if row.startswith("tiny")]
    assert 0.1 < float(found.split("ratio")[1].split()[0]) < 10


def test_a_folder_that_is_no_checkout_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="has no dadapt_dist"):
        Checkout(tmp_path, 1, "cpu", ("tiny",))
