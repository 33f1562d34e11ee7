"""Programs that hold optimizers in containers of their own: torchtitan's, under FSDP2 as well, and torchft's wrapper."""

import copy
from datetime import timedelta
from typing import Any

import pytest
import torch
from torch import nn

import dadapt_dist as dd
from tests.helpers.models import loss_of, part
from tests.helpers.pool import WorkerPool
from tests.helpers.program_runs import NEARLY, OPTIONS, STEPS, data, needs, page_code, plain, small, train

# ---------------------------------------------------------------- torchtitan


def titan(model_parts: list[nn.Module], factory_options: dict[str, Any]) -> Any:
    """The container of docs/programs.md by way of its config, with two groups."""
    from torchtitan.components.optimizer import ParamGroupConfig

    optimizers = page_code("programs.md", "class Optimizers")["Optimizers"]
    groups = [
        ParamGroupConfig(pattern=pattern, optimizer_name="Prodigy", optimizer_kwargs={"lr": 1.0, **OPTIONS})
        for pattern in ("bias$", ".*")
    ]
    config = optimizers.Config(param_groups=groups, optimizer_factory_kwargs_by_name={"Prodigy": factory_options})
    return config.build(model_parts=model_parts)


def titan_schedule(optimizers: Any) -> Any:
    """Its schedule, constant: no warm-up, no decay."""
    from torchtitan.components.optimizer import LRSchedulersContainer

    return LRSchedulersContainer.Config(warmup_steps=0, decay_ratio=0.0).build(
        optimizers=optimizers, training_steps=STEPS
    )


def stages(model: nn.Module) -> list[nn.Module]:
    """Two model parts, as a pipeline has them; names of parameters are those of the whole."""
    names = [name for name, _ in model.named_children()]
    return [nn.ModuleDict({name: model.get_submodule(name) for name in some}) for some in (names[:1], names[1:])]


def titan_trains(parts: int) -> tuple[list[float], float]:
    """d of each optimizer, and the d that is logged; with the state saved before the first step, as its checkpoints do."""
    model = small()
    optimizers = titan([model] if parts == 1 else stages(model), {"step_size": "model"} if parts > 1 else {})
    schedule = titan_schedule(optimizers)
    optimizers.state_dict()
    for step in range(STEPS):
        train(model, optimizers, [step])
        schedule.step()
    return [optimizer.d for optimizer in optimizers], dd.log_values(optimizers)["d"]


@needs("torchtitan", "spmd_types", "torch_checkpointing")
@pytest.mark.parametrize("parts", [1, 2])
def test_torchtitans_container_finds_one_d_for_all_model_parts(apart: Any, parts: int) -> None:
    each, logged = apart(titan_trains, parts)
    assert len(each) == parts
    assert {*each, logged} == {each[0]}
    assert logged == pytest.approx(plain(), **NEARLY)


def titan_of_the_page() -> tuple[list[float], list[str]]:
    """d with the config of docs/programs.md, and its schedule; and names of classes that torchtitan knows."""
    from torchtitan.components.optimizer import default_adamw

    classes = page_code("programs.md", "class Optimizers")
    config = page_code("programs.md", "def with_prodigy", **classes)["with_prodigy"]()
    model, steps = small(), config.training.steps
    optimizers = config.optimizer.build(model_parts=stages(model))
    schedule = config.lr_scheduler.build(optimizers=optimizers, training_steps=steps)
    for step in range(150):
        train(model, optimizers, [step])
        schedule.step()
        assert {group["lr"] for optimizer in optimizers for group in optimizer.param_groups} == {1.0}
    adamw = classes["Optimizers"].Config(param_groups=default_adamw().param_groups, implementation="for-loop")
    own = adamw.build(model_parts=[small()])
    return [optimizer.d for optimizer in optimizers], [type(optimizer).__name__ for optimizer in own]


@needs("torchtitan", "spmd_types", "torch_checkpointing")
def test_the_config_of_the_page_trains_and_still_knows_torchtitans_own_optimizers(apart: Any) -> None:
    (first, second), own = apart(titan_of_the_page)
    assert first == second > 1e-4
    assert own == ["AdamW"]


def titan_without_a_name() -> list[float]:
    """d of each of two model parts that share no estimate."""
    model = small()
    optimizers = titan(stages(model), {})
    train(model, optimizers)
    return [optimizer.d for optimizer in optimizers]


@needs("torchtitan", "spmd_types", "torch_checkpointing")
def test_without_step_size_torchtitans_model_parts_find_a_d_each(apart: Any) -> None:
    first, second = apart(titan_without_a_name)
    assert first != second


def titan_resumes() -> tuple[float, float]:
    """d of a run, and of one that a new container continues from the flat state dict of the middle."""
    model = small()
    optimizers = titan(stages(model), {"step_size": "model"})
    train(model, optimizers, range(STEPS // 2))
    weights, state = copy.deepcopy((model.state_dict(), optimizers.state_dict()))
    train(model, optimizers, range(STEPS // 2, STEPS))
    other = small()
    others = titan(stages(other), {"step_size": "model"})
    other.load_state_dict(weights)
    others.load_state_dict(state)
    train(other, others, range(STEPS // 2, STEPS))
    assert all(map(torch.equal, model.parameters(), other.parameters()))
    return dd.log_values(optimizers)["d"], dd.log_values(others)["d"]


@needs("torchtitan", "spmd_types", "torch_checkpointing")
def test_torchtitans_container_resumes_from_its_flat_state_dict(apart: Any) -> None:
    whole, resumed = apart(titan_resumes)
    assert whole == resumed > 10 * OPTIONS["d0"]


def titan_under_fsdp2() -> float:
    from torch.distributed import get_rank, get_world_size
    from torch.distributed.fsdp import fully_shard

    model = small()
    for block in model.blocks:
        fully_shard(block)
    fully_shard(model)
    optimizers = titan([model], {"step_size": "model"})
    for step in range(STEPS):
        loss_of(model, *(part(t, get_rank(), get_world_size()) for t in data(step))).backward()
        optimizers.step()
        optimizers.zero_grad()
    return dd.log_values(optimizers)["d"]


@needs("torchtitan", "spmd_types", "torch_checkpointing")
def test_torchtitans_container_under_fsdp2_finds_the_d_of_one_process(pool2: WorkerPool) -> None:
    first, second = pool2.run(titan_under_fsdp2, timeout=200)
    assert first == second == pytest.approx(plain(), **NEARLY)


# ---------------------------------------------------------------- torchft


def torchft(steps_that_fail: list[int]) -> tuple[float, float, int]:
    """d, as logged, and the steps that were committed: one replica, with a lighthouse and a manager in this process."""
    from torch.distributed import TCPStore
    from torchft import Manager, Optimizer, ProcessGroupGloo
    from torchft.coordination import LighthouseServer

    lighthouse = LighthouseServer(bind="[::]:0", min_replicas=1, join_timeout_ms=100)
    store = TCPStore("localhost", 0, is_master=True, wait_for_workers=False)
    manager = Manager(
        pg=ProcessGroupGloo(timeout=timedelta(seconds=30)),
        min_replica_size=1,
        load_state_dict=lambda _: None,
        state_dict=dict,
        replica_id="alone",
        store_addr="localhost",
        store_port=store.port,
        rank=0,
        world_size=1,
        lighthouse_addr=lighthouse.address(),
        timeout=timedelta(seconds=30),
    )
    try:
        model, step = small(), 0
        optimizer = Optimizer(manager, dd.Prodigy(model.parameters(), **OPTIONS))
        for attempt in range(STEPS + len(steps_that_fail)):
            optimizer.zero_grad()
            loss_of(model, *data(step)).backward()
            if attempt in steps_that_fail:
                manager.report_error(RuntimeError("a peer was lost"))
            optimizer.step()
            step = manager.current_step()
        return float(dd.base_optimizer(optimizer).d), dd.log_values(optimizer)["d"], step
    finally:
        manager.shutdown(wait=False)
        lighthouse.shutdown()


@needs("torchft")
@pytest.mark.parametrize("steps_that_fail", [[], [2, 5]])
def test_torchft_steps_it_when_it_commits_and_leaves_it_alone_when_it_does_not(
    apart: Any, steps_that_fail: list[int]
) -> None:
    assert apart(torchft, steps_that_fail) == (plain(), plain(), STEPS)
