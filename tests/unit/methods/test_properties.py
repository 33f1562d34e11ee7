"""Check that updates are additive over any split, and that the rules survive zero, tiny, huge and non-finite sums."""

import math
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dadapt_dist.engine.estimate_state import ScalarTable
from dadapt_dist.kernels import TensorTask
from dadapt_dist.kernels.eager import advance, numbers
from dadapt_dist.methods import METHODS
from tests.helpers.classes import ALL, D_MAY_FALL

DEFAULTS: dict[str, dict[str, Any]] = {
    key: dict(cls([torch.nn.Parameter(torch.zeros(1))]).defaults) for key, cls in ALL.items()
}
WITH_SUMS = [key for key in ALL if METHODS[key].after is not None or METHODS[key].before is not None]
NUMBERS = st.floats(allow_nan=True, allow_infinity=True, width=64)


def table_of(key: str, estimates: int = 1) -> ScalarTable:
    table = ScalarTable(METHODS[key]())
    for index in range(estimates):
        table.add(f"e{index}", DEFAULTS[key])
    known = {"g0_norm": 2.0, "g_sq_sum": 2.0, "weighted_sum": 2.0, "started": 1.0, "element_count": 4.0}
    for name, value in known.items():
        if name in table.values:
            table.values[name].fill_(value)
    return table


def phase_of(method: Any) -> str:
    """The phase whose sums every step has."""
    return "after" if method.after is not None else "before"


def task_of(key: str, numel: int, seed: int, dtype: torch.dtype) -> TensorTask:
    """A parameter in the middle of training: every buffer holds something."""
    generator = torch.Generator().manual_seed(seed)
    buffers = METHODS[key]().buffers(DEFAULTS[key])

    def values(*, positive: bool = False) -> torch.Tensor:
        t = torch.randn(numel, generator=generator, dtype=torch.float64).to(dtype)
        return t.abs() + 1e-3 if positive else t

    return TensorTask(
        x=values(),
        g=values(),
        buf={name: values(positive=spec.squares) for name, spec in buffers.items()},
    )


def part_of(task: TensorTask, begin: int, end: int) -> TensorTask:
    return TensorTask(
        x=task.x[begin:end].clone(),
        g=task.g[begin:end].clone(),
        buf={name: t[begin:end].clone() for name, t in task.buf.items()},
    )


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("key", ALL)
@given(numel=st.integers(0, 40), cuts=st.lists(st.integers(0, 40), max_size=4), seed=st.integers(0, 10**6))
def test_splitting_a_tensor_and_updating_the_parts_is_updating_the_whole(
    key: str, dtype: torch.dtype, numel: int, cuts: list[int], seed: int
) -> None:
    method, table = METHODS[key](), table_of(key)
    coefficients = method.coefficients(DEFAULTS[key], table.of(0), table.constants(0))
    whole = task_of(key, numel, seed, dtype)
    edges = [0, *sorted(min(cut, numel) for cut in cuts), numel]
    parts = [part_of(whole, begin, end) for begin, end in pairwise(edges)]

    sums = [advance(method, part, coefficients) for part in parts]
    total = advance(method, whole, coefficients)

    assert torch.equal(torch.cat([part.x for part in parts]), whole.x)
    for name in whole.buf:
        assert torch.equal(torch.cat([part.buf[name] for part in parts]), whole.buf[name])
    added = torch.tensor(sums, dtype=torch.float64).sum(0)
    # float64 sums of at most 40 terms: the order costs a few ulp of the largest term
    torch.testing.assert_close(
        added, torch.tensor(total, dtype=torch.float64), rtol=1e-12, atol=1e-12 * float(added.abs().max())
    )


@pytest.mark.parametrize("key", ALL)
@given(numel=st.integers(0, 20), seed=st.integers(0, 10**6))
def test_rehearsing_gives_the_sums_of_the_step_and_moves_nothing(key: str, numel: int, seed: int) -> None:
    method, table = METHODS[key](), table_of(key)
    coefficients = method.coefficients(DEFAULTS[key], table.of(0), table.constants(0))
    task = task_of(key, numel, seed, torch.float64)
    before = part_of(task, 0, numel)

    rehearsed = advance(method, task, coefficients, dry=True)

    assert torch.equal(before.x, task.x)
    assert all(torch.equal(before.buf[name], task.buf[name]) for name in task.buf)
    assert rehearsed == advance(method, task, coefficients)


@pytest.mark.parametrize("key", WITH_SUMS)
@given(data=st.data())
def test_scalars_stay_finite_and_d_above_0_whatever_the_sums(key: str, data: st.DataObject) -> None:
    """Of a method with sums: another's scalars do not move."""
    table = table_of(key, estimates=2)
    phase = phase_of(table.method)
    names, needs = table.names_of(phase), getattr(table.method, phase).needs
    width = len(names) + 1
    for _ in range(4):
        sums = data.draw(st.lists(st.lists(NUMBERS, min_size=width, max_size=width), min_size=2, max_size=2))
        before = {name: value.clone() for name, value in table.values.items()}
        table.apply(torch.tensor(sums, dtype=torch.float64), (phase,))
        for row in range(2):
            assert all(bool(torch.isfinite(value[row]).all()) for value in table.values.values())
            assert "d" not in before or table.values["d"][row] > 0
            assert "d" not in before or key in D_MAY_FALL or table.values["d"][row] >= before["d"][row]
            unusable = not all(map(math.isfinite, sums[row])) or sums[row][-1] != 0
            if unusable or sums[row][names.index(needs)] <= 0:
                for name in set(before) - {"held"}:
                    assert torch.equal(table.values[name][row], before[name][row]), name
                assert table.values["held"][row] - before["held"][row] == unusable


@pytest.mark.parametrize("key", ALL)
@given(
    first=st.lists(st.floats(0, 1e3), min_size=4, max_size=4),
    second=st.lists(st.floats(0, 1e3), min_size=4, max_size=4),
)
def test_estimates_do_not_disturb_each_other(key: str, first: list[float], second: list[float]) -> None:
    phase = phase_of(METHODS[key])
    width = len(table_of(key).names_of(phase))
    rows = [[*first[:width], 0.0], [*second[:width], 0.0]]
    together = table_of(key, estimates=2)
    together.apply(torch.tensor(rows, dtype=torch.float64), (phase,))
    for row, sums in enumerate(rows):
        alone = table_of(key)
        alone.apply(torch.tensor([sums], dtype=torch.float64), (phase,))
        assert all(torch.equal(together.values[name][row], alone.values[name][0]) for name in alone.values)


@pytest.mark.parametrize("key", ALL)
def test_zero_sums_move_nothing(key: str) -> None:
    table = table_of(key)
    before = {name: value.clone() for name, value in table.values.items()}
    phases = ("start", phase_of(table.method))
    table.apply(table.no_sums(phases), phases)
    assert all(torch.equal(value, before[name]) for name, value in table.values.items())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("key", ALL)
def test_large_tensors_taken_block_by_block_are_the_whole_tensors(
    key: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    method, table = METHODS[key](), table_of(key)
    coefficients = numbers(method.coefficients(DEFAULTS[key], table.of(0), table.constants(0)), torch.device("cpu"))
    whole, blocked = task_of(key, 40, 3, dtype), task_of(key, 40, 3, dtype)
    whole.g[5] = blocked.g[5] = float("nan")
    sums = torch.tensor(advance(method, whole, coefficients), dtype=torch.float64)
    monkeypatch.setattr("dadapt_dist.kernels.eager.CPU_BLOCK", 7)
    of_blocks = torch.tensor(advance(method, blocked, coefficients), dtype=torch.float64)
    assert torch.equal(blocked.x, whole.x)
    assert all(torch.equal(blocked.buf[name], whole.buf[name]) for name in whole.buf)
    torch.testing.assert_close(of_blocks, sums, rtol=1e-12, atol=1e-12 * float(sums.abs().max()))
    assert sums[-1] == 1
