"""Check that no method of the package falls back from the compiled step: with its defaults, and with each of its options."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from dadapt_dist.kernels import cpu_c, eager
from dadapt_dist.methods import METHODS
from dadapt_dist.methods.by_power import DECAY, by_power
from tests.helpers.classes import ALL, COMPILED, RIDES
from tests.helpers.kernel_cases import check, coefficients_of, copied, options_of, task_of

F32, BF16 = torch.float32, torch.bfloat16
pytestmark = pytest.mark.skipif(not cpu_c.available(), reason="no C compiler: the plain loop runs instead")

NUMBERS: dict[str, Any] = {
    "lr": 0.5, "weight_decay": 0.05, "momentum": 0.5, "average": 8.0, "slice_p": 3, "total_steps": 30, "rms_cap": 0.02,
    "eps": 0.01, "layer_scale": 0.5, "warmup_steps": 10, "s_decay": 0.0, "beta1_decay": 0.9, "beta3": 0.5, "bound": 2.0,
}  # fmt: skip
"""Values of options that are numbers; those that are texts or switches take all of theirs."""
OF_MODES = {"estimate", "maximize", "recipe"}  # no other step; and other options that follow
BESIDE: dict[str, dict[str, Any]] = {
    "total_steps": {"recipe": "auto"},
    "length_scaling": {"total_steps": 30},
    "probe_d0": {"total_steps": 900},
    "variant": {"weight_decay": 0.01, "delta": "recomputed"},
}


def settings(key: str) -> list[dict[str, Any]]:
    """The defaults, and for each option its other values."""
    options, found = METHODS[key].options, [{}]
    defaults = options.defaults()
    for name, known in options.checks().items():
        values: list[Any] = re.findall("'([^']+)'", known.allowed)
        if "True or False" in known.allowed:
            values = [True, False]
        elif name == "betas":
            values = [(0.0, *defaults["betas"][1:])]
        elif name in NUMBERS and not (name == "average" and defaults[name] is False):
            values = [NUMBERS[name]]
        for value in values:
            given = {name: value} | BESIDE.get(name, {})
            if name not in OF_MODES and value != defaults[name] and is_right(key, given):
                found.append(given)
    return found


def is_right(key: str, given: dict[str, Any]) -> bool:
    """Whether a method takes this: the first of betas may not be 0 everywhere."""
    try:
        METHODS[key].options(**given)
    except ValueError:
        return False
    return True


@pytest.mark.parametrize(("key", "given"), [(key, given) for key in COMPILED for given in settings(key)], ids=str)
def test_no_method_falls_back_to_plain_operations(key: str, given: dict[str, Any]) -> None:
    first = {name: 1e-3 for name in ("d0", "reps_rel") if name in METHODS[key].options.checks()}
    options = dict(ALL[key]([torch.nn.Parameter(torch.zeros(1))], **{**first, **given}).defaults)
    method, cut = METHODS[key](), slice(1, None, given["slice_p"]) if "slice_p" in given else None
    c = coefficients_of(method, options)
    for param, state in ((F32, F32), (F32, BF16), (BF16, BF16), (BF16, F32)):
        kinds: dict[str, Any] = {"param": param, "statistics": state, "state": state}
        tasks = [task_of(key, size, options=options, seed=size, cut=cut, **kinds) for size in (3000, 5)]
        assert all(cpu_c.supports(method, task) for task in tasks)
        assert cpu_c.run(method, [copied(task) for task in tasks], c, True) is not None, "its step falls back"
        if method.before is not None and cut is None:
            found = cpu_c.measure(method, tasks, c)
            assert found is not None, "its sums before the step fall back"
            assert torch.allclose(found, eager.measure(method, tasks, c), rtol=1e-12, atol=0)
        check(method, tasks, c, cpu_c)


@pytest.mark.parametrize("key", RIDES)
def test_no_split_sums_fall_back_to_plain_operations(key: str) -> None:
    method, options = METHODS[key](), options_of(key)
    split, decay = by_power(method), method.coupled_decay(options)
    c = coefficients_of(method, options) | {DECAY: decay or None}
    tasks = [task_of(key, size, options=options, seed=size, decay=decay, maximize=True) for size in (3000, 5)]
    found = cpu_c.measure(split, tasks, c)
    assert found is not None
    right = eager.measure(split, tasks, c)
    assert torch.allclose(found, right, rtol=1e-11, atol=1e-13 * float(right.abs().max()))


FIRST_USE = """
import resource, time, torch
from dadapt_dist import optimizers
from dadapt_dist.kernels import cpu_c

def used():
    compiler = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + compiler.ru_utime + compiler.ru_stime

assert cpu_c.available()
for name, cls in optimizers.classes().items():
    p = torch.nn.Parameter(torch.ones(4))
    p.grad = torch.ones(4)
    optimizer, before = cls([p]), used()
    optimizer.step(loss=1.0)
    print(name, used() - before)
"""
"""Steps once with every method, and says how long the processor was busy with it."""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="Windows does not tell the time of children")
def test_first_use_takes_less_than_two_seconds_and_the_second_process_finds_what_was_built(tmp_path: Path) -> None:
    def taken() -> dict[str, float]:
        environment = os.environ | {"DADAPT_DIST_CACHE": str(tmp_path / "cache")}
        command = [sys.executable, "-c", FIRST_USE]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=300)
        return {name: float(seconds) for name, seconds in map(str.split, done.stdout.splitlines())}

    first = taken()
    built = {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").iterdir()}
    second = taken()
    assert first.keys() == second.keys() >= set(COMPILED)
    assert max(first.values()) < 2, first
    assert max(second.values()) < 0.2, second
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").iterdir()} == built
    assert len(built) > len(COMPILED)
