"""Check the GPU's step on a machine without a GPU, in triton's interpreter in a separate process."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton has no build for this platform")
def test_every_method_in_tritons_interpreter() -> None:
    """The interpreter must be chosen before triton is imported; the cases are those of a real GPU (test_gpu.py)."""
    root = Path(__file__).parents[3]
    line = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "tests/helpers/triton_cases.py"]
    env = {**os.environ, "TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(line, cwd=root, env=env, capture_output=True, text=True, timeout=250, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert " passed" in done.stdout
    assert "skipped" not in done.stdout
