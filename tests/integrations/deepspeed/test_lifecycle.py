"""Check engines that come and go, optimizers that have already stepped, and steps that fail halfway."""

import gc
import logging
from typing import Any

import pytest
import torch
from torch import nn

import dadapt_dist as dd
from tests.helpers.deepspeed_runs import Case, Odd, Trainer, quiet_deepspeed
from tests.helpers.pool import WorkerPool

BROKEN = RuntimeError("out of memory")


def of_two_engines_on_one_model() -> tuple[list[float], list[float]]:
    """d with a second engine alive on the same model, and without."""
    found = []
    for second in (True, False):
        model, case = Odd(), Case(stage=0)
        with Trainer(case, model, [{"params": list(model.parameters())}]) as trainer:
            config = case.deepspeed_config()
            other = dd.Prodigy(model.parameters(), d0=1e-3)
            engine = quiet_deepspeed().initialize(model=model, optimizer=other, config=config)[0] if second else None
            found.append([trainer.step(step) or trainer.base.d for step in range(3)])
            if engine is not None:
                engine.basic_optimizer = None
    return found[0], found[1]


def test_a_tensor_of_two_engines_counts_once(pool2: WorkerPool) -> None:
    for with_second, alone in pool2.run(of_two_engines_on_one_model):
        assert with_second == alone


def step_after_a_past(stage: int) -> str:
    model, deepspeed = Odd(), quiet_deepspeed()
    optimizer = dd.Prodigy(model.parameters(), d0=1e-3)
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    optimizer.step()
    engine = deepspeed.initialize(model=model, optimizer=optimizer, config=Case(stage=stage).deepspeed_config())[0]
    engine.backward(engine(torch.ones(2, 5)).sum())
    try:
        with pytest.raises(ValueError, match="had taken 1 steps before the framework put its own tensors") as caught:
            engine.step()
    finally:
        engine.basic_optimizer = None
    return str(caught.value)


@pytest.mark.parametrize("stage", [1, 3])
def test_an_optimizer_with_a_past_is_refused_because_its_buffers_are_lost(stage: int, pool2: WorkerPool) -> None:
    for said in pool2.run(step_after_a_past, stage):
        assert "engine.load_checkpoint" in said


def after_a_step_that_broke_off() -> tuple[list[str], float, list[float]]:
    said: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger("dadapt_dist").addHandler(handler)
    try:
        with Trainer(Case(stage=1, groups=3)) as trainer:
            trainer.step(0)
            d, real, wrapper = trainer.base.d, trainer.wrapper._optimizer_step, trainer.wrapper

            def break_off(group: int) -> None:
                if group == 1:
                    raise BROKEN
                real(group)

            wrapper._optimizer_step = break_off
            with pytest.raises(RuntimeError, match="out of memory"):
                trainer.step(1)
            wrapper._optimizer_step = real
            after = [trainer.step(step) or trainer.base.d for step in range(2, 8)]
    finally:
        logging.getLogger("dadapt_dist").removeHandler(handler)
    return said, d, after


def test_after_a_step_that_broke_off_training_goes_on(pool2: WorkerPool) -> None:
    (said, d, after), other = pool2.run(after_a_step_that_broke_off)
    said = [text for text in said if "gc.freeze() hides" not in text]  # in the process of the first such step alone
    assert ["a step broke off between its pieces" in text for text in said] == [True]
    assert after == sorted(after)
    assert after[-1] > d
    assert other[2] == after


def lines_logged(stage: int) -> int:
    said: list[logging.LogRecord] = []
    log = logging.getLogger("dadapt_dist.engine.optimizer")
    handler = logging.Handler()
    handler.emit = said.append  # type: ignore[method-assign]
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    try:
        with Trainer(Case(stage=stage, groups=3, method="dadapt_adam", options={"log_every": 2})) as trainer:
            for step in range(4):
                trainer.step(step)
    finally:
        log.removeHandler(handler)
        log.setLevel(logging.NOTSET)
    return len(said)


@pytest.mark.parametrize("stage", [0, 1, 3])
def test_log_every_counts_steps_and_not_pieces(stage: int, pool2: WorkerPool) -> None:
    assert pool2.run(lines_logged, stage) == [2, 2]


# ---------------------------------------------------------------- without DeepSpeed's hands on the optimizer


def plain() -> tuple[dd.LearningRateFree, list[nn.Parameter]]:
    params = [nn.Parameter(torch.ones(2)) for _ in range(2)]
    for p in params:
        p.grad = torch.ones(2)
    optimizer: Any = dd.Prodigy([{"params": [p]} for p in params], d0=1e-3)
    optimizer.step()
    return optimizer, params


def test_groups_that_a_user_drops_are_gone() -> None:
    optimizer, (_, dropped) = plain()
    optimizer.param_groups = optimizer.param_groups[:1]
    del optimizer.state[dropped]
    optimizer.step()
    assert len(optimizer.effective_lr) == 1
    assert dropped not in optimizer.state
    optimizer.state_dict()


def test_setting_the_steps_of_a_group_is_no_checkpoint() -> None:
    optimizer, _ = plain()
    optimizer.param_groups[0]["steps"] = 0
    optimizer.step()
    assert optimizer.step_size.steps == 1
    optimizer.state_dict()


def behind_a_frozen_heap(stage: int, freeze: bool, attach: bool) -> tuple[list[float], str]:
    """d of three steps; freeze: everything, once the engine is there, but not attach: and what is said then."""
    ds: list[float] = []
    with Trainer(Case(stage=stage)) as trainer:
        if freeze:
            gc.freeze()
        if attach:
            dd.attach(trainer.engine)
        try:
            for step in range(3):
                trainer.step(step)
                ds.append(trainer.base.d)
        except (dd.PlacementError, ValueError, RuntimeError) as error:
            return ds, str(error)
        finally:
            if freeze:
                gc.unfreeze()
    return ds, ""


@pytest.mark.parametrize("stage", [1, 3])
def test_an_attached_engine_is_known_behind_a_frozen_heap(stage: int, pool2: WorkerPool) -> None:
    wanted = pool2.run(behind_a_frozen_heap, stage, False, False)
    assert pool2.run(behind_a_frozen_heap, stage, True, True) == wanted
    assert wanted[0][1] == ""
    for ds, said in pool2.run(behind_a_frozen_heap, stage, True, False):
        assert ds == []
        assert said
