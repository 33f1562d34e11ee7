"""The backends that this process can run on the CPU."""

import os

import pytest

from dadapt_dist.kernels import cpu_c

BACKENDS = [
    "eager",
    *(["c"] if cpu_c.available() else []),
    *(["triton"] if os.environ.get("TRITON_INTERPRET") else []),
]
quietly = pytest.mark.filterwarnings("ignore:.*encountered in:RuntimeWarning")  # numpy, in triton's interpreter
