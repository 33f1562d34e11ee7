"""Check that the totals of a reduce tell whether all ranks sent the same numbers, and what becomes of ranks that did not."""

import doctest
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from dadapt_dist.comm import step_agreement
from dadapt_dist.comm.step_agreement import PATIENCE, STEPS, StepAgreement, read, triple

Rank = tuple[int, int, int | None]  # count, tag, pace


def summed(agreement: StepAgreement, ranks: Sequence[Rank | None], marks: Sequence[Tensor] = ()) -> Tensor:
    """The totals of what these ranks send; None sends zeros, as a rank without input does."""
    totals = torch.zeros(agreement.size, dtype=torch.float64)
    for index, rank in enumerate(ranks):
        numbers = torch.zeros_like(totals)
        if rank is not None:
            agreement.marks = marks[index] if marks else None
            agreement.encode(numbers, *rank)
        totals += numbers
    return totals


def judged(agreement: StepAgreement, ranks: Sequence[Rank | None], **more: Any) -> tuple[float, list[bool], bool]:
    active, found, apart = agreement.check(summed(agreement, ranks, **more))
    assert agreement.is_apart(found) or not bool(apart)
    return float(active), found.tolist(), bool(apart)


def test_what_travels_is_one_triple_for_the_step_and_one_for_the_model() -> None:
    numbers = torch.zeros(6, dtype=torch.float64)
    StepAgreement().encode(numbers, 7, 1, 3)
    assert numbers.tolist() == [1, 15, 225, 1, 3, 9]
    StepAgreement().encode(numbers, 0, 0, None)
    assert numbers.tolist() == [1, 0, 0, 0, 0, 0]
    assert triple(5) == (1.0, 5.0, 25.0)


@pytest.mark.parametrize("ranks", [1, 2, 3, 1000, 1 << 18])
@pytest.mark.parametrize("h", [0, 1, 12345, 2 * STEPS - 1])
def test_the_identity_holds_to_the_last_bit(ranks: int, h: int) -> None:
    """Equal numbers of any size on any number of ranks agree; one rank that is off by one does not."""
    agreement = StepAgreement()
    agreement.restart(1, 0)
    other = h - 1 if h else 1
    all_alike = torch.tensor(triple(h), dtype=torch.float64) * ranks
    one_off = (
        all_alike + torch.tensor(triple(other), dtype=torch.float64) - torch.tensor(triple(h), dtype=torch.float64)
    )
    step = torch.tensor([ranks, ranks * 4.0, ranks * 16.0, 0, 0, 0], dtype=torch.float64)
    assert agreement.check(torch.cat([step, all_alike]))[1].tolist() == [False, False, False]
    assert agreement.check(torch.cat([step, one_off]))[1].tolist() == [False, False, ranks > 1]


@pytest.mark.parametrize(
    "ranks", [[(3, 0, None), (4, 0, None)], [(3, 0, None), (3, 1, None)], [(3, 0, 1), (2, 0, 1), None]]
)
def test_ranks_in_different_windows_are_apart_at_once_and_for_good(ranks: list[Rank | None]) -> None:
    agreement = StepAgreement()
    active, found, apart = judged(agreement, ranks)
    assert (active, found, apart) == (2.0, [True, True], True)
    assert agreement.stopped
    assert judged(agreement, [(5, 0, None)] * 2)[1:] == ([True, True], True)
    agreement.restart(0, 0)
    assert judged(agreement, [(5, 0, None)] * 2) == (2.0, [False, False], False)
    assert not agreement.stopped


def test_models_that_differ_for_a_while_hold_and_for_longer_are_apart() -> None:
    agreement, alike, other = StepAgreement(), [(3, 0, 8), (3, 0, 8)], [(3, 0, 8), (3, 0, 9)]
    for _ in range(2):
        for _ in range(PATIENCE - 1):
            assert judged(agreement, other) == (2.0, [True, False], True)
        assert judged(agreement, alike) == (2.0, [False, False], False)
    for _ in range(PATIENCE - 1):
        judged(agreement, other)
        assert not agreement.stopped
    assert judged(agreement, other) == (2.0, [True, True], True)
    assert agreement.stopped
    assert judged(agreement, [(3, 0, None), (3, 0, 8)])[2], "a rank that tells nothing excuses nobody"


def test_marks_hold_but_for_those_that_are_only_told() -> None:
    def marks(*values: float) -> Tensor:
        return torch.tensor([number for h in values for number in triple(h)], dtype=torch.float64)

    agreement, ranks = StepAgreement(), [(1, 0, None), (1, 0, None)]
    agreement.restart(3, 1)
    nearly = 0.5, 0.5 * (1 + 1e-4)
    for differs, one, other, held in (
        ([False, False, False], marks(7, 9, nearly[0]), marks(7, 9, nearly[1]), False),
        ([False, True, False], marks(7, 9, 0.5), marks(7, 8, 0.5), True),
        ([False, False, True], marks(7, 9, 0.5), marks(7, 9, 0.6), False),
        ([False, False, False], marks(7, 9, 0.5), torch.zeros(9, dtype=torch.float64), False),
    ):
        active, found, apart = judged(agreement, ranks, marks=[one, other])
        assert (active, found, apart) == (2.0, [False, False, *differs], held)
        assert read(found, ["a", "b", "c"]) == (False, False, {n for n, d in zip("abc", differs, strict=True) if d})


def test_the_example_of_the_docstring_runs() -> None:
    assert doctest.testmod(step_agreement, extraglobs={"torch": torch}) == (0, 5)
