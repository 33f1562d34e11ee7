"""Check the GPU's step on a machine without a GPU, in triton's interpreter in a separate process."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from dadapt_dist.kernels import triton_program
from dadapt_dist.kernels.cpu_c import kinds_of
from dadapt_dist.kernels.traced_method import in_order
from dadapt_dist.methods import METHODS
from tests.helpers.kernel_cases import coefficients_of, options_of

needs_triton = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="triton has no build for this platform"
)
POINTERS = {"tensors": "*i32", "chunks": "*i32", "h": "*fp64", "factors": "*fp64", "partial": "*fp64"}
POINTERS |= {"distances": "*i64", "numels": "*i64", "origins": "*i64"}


@pytest.mark.slow
@needs_triton
@pytest.mark.in_one_go
def test_every_method_in_tritons_interpreter() -> None:
    """The interpreter must be chosen before triton is imported; the cases are those of a real GPU (test_gpu.py)."""
    root = Path(__file__).parents[3]
    line = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "tests/helpers/triton_cases.py"]
    line += [] if "TEST_EVERY_METHOD" in os.environ else ["-m", "not matrix"]
    env = {**os.environ, "TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(line, cwd=root, env=env, capture_output=True, text=True, timeout=550, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert " passed" in done.stdout
    assert "skipped" not in done.stdout


@pytest.mark.slow
@needs_triton
@pytest.mark.parametrize(("key", "capability"), [("prodigy", 80), ("mechanic_adam", 90)])
def test_kernels_are_compiled_for_gpus_that_are_not_here(
    key: str, capability: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource, compile  # noqa: A004

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    method, options = METHODS[key](), options_of(key)
    c, fields = coefficients_of(method, options), in_order(method, method.buffers(options))
    made = triton_program.program(method, fields, kinds_of(c))
    assert made is not None
    constants = {"LARGEST": 3.4028234663852886e38, "BLOCK": 1024, "BLOCKS": 8, "ROUNDED": 1}
    for kernel in (made.step(c), made.measure(c)) if method.before is not None else (made.step(c),):
        names = kernel.arg_names
        types = {name: POINTERS.get(name, "*fp32") if name.islower() else "constexpr" for name in names}
        types["base0"] = "*bf16"
        values = {
            (place,): constants.get(name, 4 if name.startswith("UNIT") else False)
            for place, name in enumerate(names)
            if not name.islower()
        }
        source = ASTSource(kernel, types, values)
        target = GPUTarget("cuda", capability, 32)
        built = compile(source, target=target, options={"num_warps": 8, "enable_fp_fusion": False})
        assert len(built.asm["cubin"]) > 1000
        assert f"sm_{capability}" in built.asm["ptx"]
        assert "ld.local" not in built.asm["ptx"]


def test_ways_that_the_hosts_numbers_rule_out_are_in_no_kernel() -> None:
    method, options = METHODS["prodigy"](), options_of("prodigy")
    c, fields = coefficients_of(method, options), in_order(method, method.buffers(options))
    made = triton_program.program(method, fields, kinds_of(c))
    assert made is not None
    steps = made.found.traced.steps
    one, both = (triton_program._ways(steps, c | {"back": back}) for back in (0.0, torch.tensor(0.0)))
    assert one is not None
    assert both is not None
    assert (len(one.places), len(both.places)) == (1, 2)
    assert one.known == {"back"}
