"""Check that a step that DeepSpeed takes in several calls stays one step, whatever each call holds."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_pre_hook

import dadapt_dist as dd
from dadapt_dist.integrations.deepspeed.internals import shares
from tests.helpers.classes import WITH_BEFORE, WITHOUT_SUMS
from tests.helpers.deepspeed_checks import ROUND_ROBIN, bounds, check, run, run_and_check
from tests.helpers.deepspeed_reference import (
    clipped,
    deviation,
    deviation_of_d,
    exact_gradients,
    make_oracle,
    reference,
)
from tests.helpers.deepspeed_runs import NAMES, SUB_GROUP, Case, Odd, Trainer, train
from tests.helpers.pool import WorkerPool

PIECES = [Case(stage=stage, groups=3, sub_group=SUB_GROUP) for stage in (1, 2, 3)]  # three or five calls a step
# So told, stages 1 and 2 let gradients through that are not finite; stage 3 always skips such steps (DeepSpeed 0.19.8).
LETS_THROUGH = {"bf16": {"enabled": True, "check_grad_overflow": False}}


def attempt(case: Case) -> str:
    """On every rank: what training raises, "" for nothing."""
    try:
        train(case)
    except (ValueError, RuntimeError, ArithmeticError) as error:
        return f"{type(error).__name__}: {error}"
    return ""


def attempt_all(cases: Sequence[Case]) -> list[str]:
    return [attempt(case) for case in cases]


# ---------------------------------------------------------------- what a piece may hold


def train_beside_nan(case: Case) -> tuple[int, list[float], list[Tensor]]:
    """On every rank: elements of the optimizer's tensors that are NaN at the end, d after each step, and the weights."""
    with Trainer(case) as trainer:
        ds = []
        for step in range(case.steps):
            trainer.step(step)
            ds.append(trainer.base.d)
        flats = trainer.wrapper.fp32_partitioned_groups_flat
        return sum(int(flat.isnan().sum()) for flat in flats), ds, trainer.masters()


@pytest.mark.parametrize("sub_group", [SUB_GROUP, 10**9])
def test_padding_that_is_not_a_number_reaches_nothing(sub_group: int, pool2: WorkerPool) -> None:
    """ZeRO-3 pads with uninitialised memory, which torch fills with NaN when told to be deterministic."""
    case = Case(stage=3, groups=3, sub_group=sub_group, nan_padding=True)
    expected, results = reference(case), pool2.run(train_beside_nan, case)
    assert [found for found, _, _ in results] == [0, len(NAMES)], "each tensor is odd: one element of padding on rank 1"
    for _, ds, masters in results:
        assert deviation_of_d(ds, expected.d) < bounds(case)[0]
        assert deviation(masters, expected.params) < bounds(case)[1]


def test_not_a_number_in_whatever_stage_1_and_2_allocate_reaches_nothing(pool2: WorkerPool) -> None:
    run_and_check(pool2, [Case(stage=stage, groups=3, nan_padding=True) for stage in (1, 2)])


def misplaced(case: Case) -> list[str]:
    """On every rank: parameters whose part of the optimizer's tensors does not hold their values."""
    with Trainer(case) as trainer:
        whole = dict(zip(map(id, trainer.model.parameters()), trainer.weights(), strict=True))
        names = {id(p): name for name, p in trainer.model.named_parameters()}
        wrong = []
        for share in shares(trainer.engine):
            held = share.tensor.detach().flatten()[share.start : share.start + share.length]
            expected = whole[id(share.param)].flatten()[share.first : share.first + share.length]
            if not torch.equal(held, expected):
                wrong.append(names[id(share.param)])
        return wrong


@pytest.mark.parametrize("case", [Case(stage=0, groups=3), *PIECES], ids=str)
def test_every_part_holds_the_elements_of_the_parameter_that_it_is_said_to_be(case: Case, pool2: WorkerPool) -> None:
    assert pool2.run(misplaced, case) == [[], []]


@pytest.mark.parametrize("case", ROUND_ROBIN, ids=str)
def test_every_part_is_where_it_is_said_to_be_under_round_robin(case: Case, pool2: WorkerPool) -> None:
    assert pool2.run(misplaced, case) == [[], []]


class Spare(Odd):
    """With a layer that the loss does not see: it has no gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.spare = nn.Linear(3, 3)


def train_other(case: Case, frozen: bool) -> tuple[list[float], list[int], dict[str, Tensor]]:
    """On every rank: d and collectives of each step and the weights, of a model with a spare layer or a frozen norm."""
    model = Odd() if frozen else Spare()
    model.norm.requires_grad_(not frozen)
    parts = (
        [list(model.parameters())]
        if frozen
        else [list(model.parameters())[: len(NAMES)], list(model.spare.parameters())]
    )
    with Trainer(
        case, model, [{"params": part, "weight_decay": 0.2 * (i == 0)} for i, part in enumerate(parts)]
    ) as trainer:
        ds, collectives = [], []
        for step in range(case.steps):
            trainer.collectives = 0
            trainer.step(step)
            collectives.append(trainer.collectives)
            ds.append(trainer.base.d)
        return (
            ds,
            collectives,
            dict(zip([name for name, _ in model.named_parameters()], trainer.weights(), strict=True)),
        )


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_pieces_without_gradients_take_part(stage: int, pool2: WorkerPool) -> None:
    case = Case(stage=stage, sub_group=SUB_GROUP)
    expected, results = reference(case), pool2.run(train_other, case, False)
    for ds, collectives, weights in results:
        assert deviation_of_d(ds, expected.d) < bounds(case)[0]
        assert collectives == [3] + [1] * (case.steps - 1)
        assert deviation([weights[name] for name in NAMES], expected.params) < bounds(case)[1]
        assert torch.equal(weights["spare.weight"], results[0][2]["spare.weight"])
        assert torch.equal(weights["spare.weight"], Spare().spare.weight)


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_frozen_parameters_stay_and_count_nothing(stage: int, pool2: WorkerPool) -> None:
    case = Case(stage=stage, sub_group=SUB_GROUP)
    oracle, expected = make_oracle(case), []
    for step in range(case.steps):
        grads = clipped(exact_gradients(oracle, step), 0.0)
        oracle.step([None if "norm" in name else g for name, g in zip(NAMES, grads, strict=True)])
        expected.append(oracle.d)
    for ds, collectives, weights in pool2.run(train_other, case, True):
        assert deviation_of_d(ds, expected) < bounds(case)[0]
        assert collectives == [3] + [1] * (case.steps - 1)
        moving = [i for i, name in enumerate(NAMES) if "norm" not in name]
        assert deviation([weights[NAMES[i]] for i in moving], [oracle.params[i] for i in moving]) < bounds(case)[1]
        assert torch.equal(weights["norm.weight"], torch.ones(7))


# ---------------------------------------------------------------- steps that move nothing


def after_initialize(case: Case) -> tuple[int, int, list[Tensor], float, int, int]:
    """On every rank: calls of step(), collectives, the weights, d, k and steps, when DeepSpeed has made its engine."""
    with Trainer(case) as trainer:
        base = trainer.base
        numbers = base.d, int(base._all_groups[0]["k"]), base.step_size.steps
        return trainer.calls, trainer.collectives, trainer.masters(), *numbers


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_the_zero_step_of_a_wrapper_that_is_being_built_moves_nothing(precision: str, pool2: WorkerPool) -> None:
    """Stage 0 makes one, with zero gradients and the lr and weight decay of the run."""
    case = Case(stage=0, groups=3, precision=precision)
    for calls, collectives, masters, d, k, steps in pool2.run(after_initialize, case):
        assert (calls, collectives, d, k, steps) == (1, 0, case.optimizer_options["d0"], 0, 0)
        assert all(torch.equal(a, b.to(case.dtype).float()) for a, b in zip(masters, Odd().parameters(), strict=True))


@pytest.mark.parametrize("method", ["prodigy", *WITH_BEFORE, *WITHOUT_SUMS])
def test_steps_with_lr_0_move_nothing(method: str, pool2: WorkerPool) -> None:
    """DeepSpeed's warm-ups begin with two of them."""
    lrs = (0.0, 0.0, 1.0, 0.5, 0.0, 1.0, 1.0, 1.0, 1.0)
    cases = [Case(stage=0, groups=3), *PIECES]
    run_and_check(pool2, [replace(case, method=method, lrs=lrs, steps=len(lrs)) for case in cases])


def test_nothing_is_communicated_once_d_is_frozen(pool2: WorkerPool) -> None:
    cases = [Case(stage=0, groups=3), *PIECES]
    results = run_and_check(pool2, [replace(case, options={"freeze_after": 4}) for case in cases])
    for runs in results:
        assert all(one.collectives == [3, 1, 1, 1, 0, 0] for one in runs)
        assert all(one.bits[3:] == [one.bits[3]] * 3 for one in runs)


# ---------------------------------------------------------------- who looks in between


@contextmanager
def looking(base: dd.LearningRateFree) -> Iterator[list[float]]:
    """Read everything that can be read before each call of step()."""
    seen: list[float] = []

    def look(optimizer: Any, *_: Any) -> None:
        if optimizer is base:
            seen.append(float(base.d))  # type: ignore[arg-type]
            assert [group["d"] for group in (*base._all_groups, *base.param_groups)] == [base.d] * (
                len(base._all_groups) + len(base.param_groups)
            )
            assert len(base.effective_lr) == 3
            assert base.step_size.held_steps == 0

    hook = register_optimizer_step_pre_hook(look)
    try:
        yield seen
    finally:
        hook.remove()


def train_and_look(case: Case) -> tuple[list[str], list[list[float]], list[int]]:
    """On every rank: bits of d, what rank 0 saw between the pieces of each step, and collectives."""
    with Trainer(case) as trainer, looking(trainer.base) as seen:
        bits, views, collectives = [], [], []
        for step in range(case.steps):
            trainer.collectives = 0
            seen.clear()
            trainer.step(step)
            views.append(list(seen))
            bits.append(trainer.base.d.hex())  # type: ignore[union-attr]
            collectives.append(trainer.collectives)
        return bits, views, collectives


@pytest.mark.parametrize("case", PIECES, ids=str)
def test_reading_between_the_pieces_changes_nothing(case: Case, pool2: WorkerPool) -> None:
    (plain,) = run(pool2, [case])
    for bits, views, collectives in pool2.run(train_and_look, case):
        assert bits == plain[0].bits
        assert collectives == plain[0].collectives
        before = [case.optimizer_options["d0"], *plain[0].d]
        assert views == [[before[step]] * plain[0].calls[step] for step in range(case.steps)]


# ---------------------------------------------------------------- what a step in pieces cannot have


def test_nonfinite_skip_and_raise_are_refused_by_name_on_all_ranks_when_there_are_pieces(pool2: WorkerPool) -> None:
    cases = [replace(case, options={"nonfinite": how}) for case in PIECES for how in ("skip", "raise")]
    for said in pool2.run(attempt_all, cases):
        for case, text in zip(cases, said, strict=True):
            assert text.startswith(
                f"PlacementError: rank 0: nonfinite={case.options['nonfinite']!r} needs all gradients"
            ), text
            assert 'Use nonfinite="hold"' in text


SINGLE = [Case(stage=stage, precision="bf16", config=LETS_THROUGH, spoiled={3: 1}) for stage in (1, 2)]


def test_nonfinite_skip_works_where_there_is_one_piece(pool2: WorkerPool) -> None:
    for case, runs in zip(SINGLE, run(pool2, [replace(c, options={"nonfinite": "skip"}) for c in SINGLE]), strict=True):
        expected = reference(case, skipped=[3])
        for one in runs:
            assert one.skipped == [False] * case.steps, "DeepSpeed left the step out itself: the test would be empty"
            assert one.collectives == [3] + [1] * (case.steps - 1)
            assert one.bits == runs[0].bits
            assert one.bits[3] == one.bits[2]
            assert deviation_of_d([d for step, d in enumerate(one.d) if step != 3], expected.d) < bounds(case)[0]
            assert deviation(one.masters, expected.params) < bounds(case)[1]


def test_nonfinite_raise_raises_on_all_ranks_where_there_is_one_piece(pool2: WorkerPool) -> None:
    for said in pool2.run(attempt_all, [replace(case, options={"nonfinite": "raise"}) for case in SINGLE]):
        assert all("not finite, or so large that they would overflow, in step 3" in text for text in said), said
        assert all(text.startswith("NonFiniteError") for text in said)


def test_hold_holds_d_on_all_ranks_when_one_of_them_is_not_finite(pool2: WorkerPool) -> None:
    cases = [replace(case, precision="bf16", config=LETS_THROUGH, spoiled={3: 1}) for case in PIECES[:2]]
    for runs in run(pool2, cases):
        for one in runs:
            assert one.skipped == [False] * 6
            assert one.bits == runs[0].bits
            assert one.bits[3] == one.bits[2]
            assert one.k == [1, 2, 3, 3, 4, 5]
            assert one.collectives == [3] + [1] * 5
            assert all(torch.isfinite(master).all() for master in one.masters)


def test_slices_are_refused_by_name_where_zero_packs_parameters_and_work_at_stage_0(pool2: WorkerPool) -> None:
    cases = [replace(case, options={"slice_p": 2}) for case in (Case(stage=0, groups=3), *PIECES)]
    check(cases[0], run(pool2, cases[:1])[0])
    for said in pool2.run(attempt_all, cases[1:]):
        assert all("slice_p=2 needs parameters whose local part is one run" in text for text in said), said
        assert all("Use slice_p=1" in text for text in said)


# ---------------------------------------------------------------- two engines


def train_two(cases: tuple[Case, Case]) -> list[list[str]]:
    """On every rank: bits of d of two engines that step in turn."""
    with Trainer(cases[0]) as one, Trainer(cases[1]) as other:
        bits: list[list[str]] = [[], []]
        for step in range(cases[0].steps):
            for trainer, found in zip((one, other), bits, strict=True):
                trainer.step(step)
                found.append(trainer.base.d.hex())  # type: ignore[union-attr]
        return bits


def test_two_engines_in_one_process_have_each_their_own_d(pool2: WorkerPool) -> None:
    pairs = [
        (PIECES[1], replace(PIECES[2], options={"d0": 1e-4})),
        (replace(PIECES[2], method="dadapt_adam"), Case(stage=0)),
    ]
    for pair in pairs:
        alone = [runs[0].bits for runs in run(pool2, pair)]
        assert alone[0] != alone[1]
        assert pool2.run(train_two, pair) == [alone, alone]


# ---------------------------------------------------------------- D-Adapt SGD, whose first step measures


FIRST_STEPS: dict[str, Callable[[Case], Case]] = {
    "float32": lambda case: case,
    "bf16": lambda case: replace(case, precision="bf16"),
    "clip and accumulation": lambda case: replace(case, clip=0.8, accumulation=2),
}


@pytest.mark.parametrize("how", FIRST_STEPS)
def test_a_first_step_in_pieces_measures_the_norm_and_moves_nothing(how: str, pool2: WorkerPool) -> None:
    cases = [
        FIRST_STEPS[how](replace(case, method="dadapt_sgd", options={"d0": 0.1}, steps=n))
        for case in PIECES
        for n in (1, 2)
    ]
    for case, runs in zip(cases, run(pool2, cases), strict=True):
        starts = [p.detach().float() for p in Odd().to(case.dtype).parameters()]
        for one in runs:
            still = all(torch.equal(master, start) for master, start in zip(one.masters, starts, strict=True))
            assert still is (case.steps == 1)
            assert deviation(one.masters, reference(case).params) < bounds(case)[1]
            for weight, master in zip(one.weights, one.masters, strict=True):
                assert torch.equal(weight, master.to(case.dtype).float()), str(case)
