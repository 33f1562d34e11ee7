"""Check that DeepSpeed features that exclude learning-rate-free optimizers are refused by name before anything moves."""

import contextlib
import io
import logging
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn

import dadapt_dist as dd
from dadapt_dist.integrations.deepspeed import internals, unsupported, zero
from tests.helpers.deepspeed_runs import same_bits
from tests.helpers.pool import WorkerPool

OFFLOAD = {"device": "cpu", "pin_memory": False}
ZENFLOW = {"topk_ratio": 0.3, "select_interval": "auto", "update_interval": 4, "full_warm_up_rounds": 0}


def import_deepspeed() -> None:
    """Before an optimizer is made: an object that is older than DeepSpeed is not on its list of tested ones."""
    with contextlib.redirect_stdout(io.StringIO()):
        import deepspeed  # noqa: F401


def initialize(stage: int, zero: dict[str, Any], **given: Any) -> Any:
    """An engine on this rank; 3 parameters of one layer, and one step of each is `step`."""
    import deepspeed

    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    deepspeed.utils.logger.setLevel(logging.ERROR)
    config = {
        "train_micro_batch_size_per_gpu": 4,
        "gradient_clipping": 0.0,
        "zero_force_ds_cpu_optimizer": False,
        "zero_optimization": {"stage": stage, **zero},
        **given.pop("config", {}),
    }
    with contextlib.redirect_stdout(io.StringIO()):
        return deepspeed.initialize(model=given.pop("model", None) or nn.Linear(3, 2), config=config, **given)[0]


def step(engine: Any, dtype: torch.dtype = torch.float32) -> None:
    x = torch.arange(12.0).view(4, 3) + dist.get_rank()
    engine.backward(engine(x.to(dtype)).square().mean())
    engine.step()


def error_of(fn: Callable[[], Any]) -> str:
    try:
        fn()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "no error"


def refused(stage: int, zero: dict[str, Any]) -> str:
    """By the end of the first step: DeepSpeed calls step() once while it builds an engine, and so do we."""
    model = nn.Linear(3, 2)

    def build_and_step() -> None:
        step(initialize(stage, zero, model=model, optimizer=dd.Prodigy, model_parameters=model.parameters()))

    return error_of(build_and_step)


@pytest.mark.parametrize(
    ("stage", "zero"),
    [
        (1, {"offload_optimizer": OFFLOAD, "zenflow": ZENFLOW}),
        (2, {"offload_optimizer": OFFLOAD, "zenflow": ZENFLOW}),
        (3, {"offload_optimizer": OFFLOAD, "zenflow": ZENFLOW}),
        (3, {"offload_optimizer": {**OFFLOAD, "super_offload": True}}),
        (3, {"offload_optimizer": {**OFFLOAD, "ratio": 0.5}}),
        (1, {"elastic_checkpoint": True}),
    ],
)
def test_a_config_that_cannot_work_does_not_get_past_the_first_step(
    pool2: WorkerPool, stage: int, zero: dict[str, Any]
) -> None:
    """DeepSpeed refuses most of them itself while it builds the engine, in words of its own; the doctor names all."""
    for said in pool2.run(refused, stage, zero):
        assert "Error: " in said, said


@pytest.mark.parametrize(
    ("feature", "asked"),
    [
        ("ZenFlow", {"zenflow_config": object()}),
        ("SuperOffload", {"super_offload": True}),
        ("Twin-Flow", {"zero_partial_offload": 0.5}),
        ("zero_optimization.elastic_checkpoint", {"zero_elastic_checkpoint": True}),
    ],
)
def test_what_steps_with_an_adam_of_its_own_is_refused_by_name(feature: str, asked: dict[str, Any]) -> None:
    given = {"zero_optimization_stage": 1, **asked}
    engine = SimpleNamespace(**{name: lambda value=value: value for name, value in given.items()})
    with pytest.raises(ValueError, match=f"^{feature} "):
        unsupported.refuse(engine)


def refused_in_a_step(stage: int, zero: dict[str, Any]) -> tuple[str, bool, int]:
    import_deepspeed()
    model = nn.Linear(3, 2)
    base = dd.Prodigy(model.parameters())
    engine = initialize(stage, zero, model=model, optimizer=base)
    before = [t.clone() for group in base.param_groups for t in group["params"]]
    said = error_of(lambda: step(engine))
    after = [t for group in base.param_groups for t in group["params"]]
    return said, all(map(same_bits, before, after)), base.step_size.steps


@pytest.mark.parametrize("stage", [1, 2])
def test_an_object_is_refused_in_its_first_step_on_all_ranks(pool2: WorkerPool, stage: int) -> None:
    for said, same, steps in pool2.run(refused_in_a_step, stage, {"elastic_checkpoint": True}):
        assert said.startswith("ValueError: zero_optimization.elastic_checkpoint saves no parameter groups"), said
        assert "universal checkpoint" in said
        assert same
        assert steps == 0


def test_elastic_checkpoints_mean_nothing_at_stage_3(pool2: WorkerPool) -> None:
    assert [said for said, *_ in pool2.run(refused_in_a_step, 3, {"elastic_checkpoint": True})] == ["no error"] * 2


def test_apex_is_refused() -> None:
    """Versions before 0.19 have it."""
    engine = SimpleNamespace(amp_enabled=lambda: True)
    with pytest.raises(ValueError, match=r"^Apex AMP does not go with .* use bf16 or torch_autocast"):
        unsupported.refuse(engine)


@contextlib.contextmanager
def another_wrapper() -> Iterator[None]:
    """DeepSpeed with a ZeRO wrapper that is not known, as ZenFlow's was once."""
    import deepspeed.runtime.engine as module

    original = module.DeepSpeedZeroOptimizer

    class FancyZeroOptimizer(original):  # type: ignore[misc, valid-type]
        """Not known."""

    module.DeepSpeedZeroOptimizer = FancyZeroOptimizer
    try:
        yield
    finally:
        module.DeepSpeedZeroOptimizer = original


def unknown_wrapper() -> tuple[str, str, str]:
    """What is said of it; and that such an engine of another optimizer is in nobody's way."""
    import deepspeed

    with another_wrapper():
        model = nn.Linear(3, 2)
        said = error_of(lambda: step(initialize(1, {}, model=model, optimizer=dd.Prodigy(model.parameters()))))
        model = nn.Linear(3, 2)
        theirs = initialize(1, {}, model=model, optimizer=torch.optim.Adam(model.parameters()))
    model = nn.Linear(3, 2)
    ours = initialize(1, {}, model=model, optimizer=dd.Prodigy(model.parameters()))
    step(theirs)
    return said, error_of(lambda: step(ours)), deepspeed.__version__


def test_an_unknown_wrapper_is_refused_by_name(pool2: WorkerPool) -> None:
    for said, other, version in pool2.run(unknown_wrapper):
        assert said.startswith(f"ValueError: FancyZeroOptimizer of DeepSpeed {version} is not supported")
        assert "Use ZeRO stage 0, 1, 2 or 3" in said
        assert other == "no error"


# ---------------------------------------------------------------- a DeepSpeed that has changed


def without(stage: int, where: str, name: str) -> str:
    """What a step says when an attribute that is read is no longer there."""
    import_deepspeed()
    model = nn.Linear(3, 2)
    base = dd.Prodigy(model.parameters())
    engine = initialize(stage, {}, model=model, optimizer=base)
    kind = {"engine": "DeepSpeedEngine", "parameter": f"Stage {3 if stage == 3 else '1 or 2'} parameter"}
    things = {"engine": engine, "wrapper": engine.optimizer, "parameter": model.weight}
    if name == "_hp_mapping":
        delattr(model.weight, name)
        return error_of(base.step)
    fields = internals.FIELDS
    which = kind.get(where, type(things[where]).__name__)
    internals.FIELDS = fields | {which: (*fields[which], name)}
    try:
        return error_of(lambda: step(engine))
    finally:
        internals.FIELDS = fields


@pytest.mark.parametrize(
    ("stage", "where", "name", "kind"),
    [
        (1, "engine", "new_name", "DeepSpeedEngine"),
        (1, "wrapper", "new_name", "DeepSpeedZeroOptimizer"),
        (3, "wrapper", "new_name", "DeepSpeedZeroOptimizer_Stage3"),
        (1, "parameter", "_hp_mapping", "Stage 1 or 2 parameter"),
        (3, "parameter", "new_name", "Stage 3 parameter"),
    ],
)
def test_a_missing_attribute_is_named_with_its_class_and_the_version(
    pool2: WorkerPool, stage: int, where: str, name: str, kind: str
) -> None:
    """The list names one that never was there: to the check it is the same as one that is gone."""
    import deepspeed

    for said in pool2.run(without, stage, where, name):
        assert f"DeepSpeed {deepspeed.__version__} has changed: {kind} has no attribute {name}," in said, said
        assert "install one of these" in said


def test_an_engine_class_that_moved_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without its engines every flat tensor would look like a whole parameter."""
    monkeypatch.setitem(internals.sys.modules, "deepspeed.runtime.engine", SimpleNamespace())
    with pytest.raises(ValueError, match=r"has changed: deepspeed\.runtime\.engine has no"):
        zero.DeepSpeedAdapter().bind(torch.optim.SGD([nn.Parameter(torch.ones(1))]))


def test_a_tensor_of_which_no_parameters_are_known_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    flat = nn.Parameter(torch.ones(4))
    base = torch.optim.SGD([flat])
    fields = dict.fromkeys(internals.FIELDS["DeepSpeedZeroOptimizer"], ())
    wrapper = type("DeepSpeedZeroOptimizer", (SimpleNamespace,), {})(**fields)
    engine = SimpleNamespace(basic_optimizer=base, optimizer=wrapper, module=nn.Linear(2, 2), mpu=None)
    monkeypatch.setattr(zero, "engines", lambda: [engine])
    with pytest.raises(ValueError, match=r"not known which parameters the optimizer's tensor of shape \(4,\) holds"):
        zero.DeepSpeedAdapter().place([flat])


# ---------------------------------------------------------------- experts and slices


def expert(**marks: Any) -> nn.Parameter:
    p = nn.Parameter(torch.ones(2, 3))
    vars(p).update(marks)
    return p


def test_an_expert_whose_group_nobody_made_is_an_error() -> None:
    pytest.importorskip("deepspeed")
    with pytest.raises(ValueError, match="expert parameter has no attribute group_name"):
        internals.model_parallel(None, expert(allreduce=False))
    with pytest.raises(
        ValueError, match=r"an expert of shape \(2, 3\) names the group 'ep_size_7', which DeepSpeed has not"
    ):
        internals.model_parallel(None, expert(allreduce=False, group_name="ep_size_7"))


class LinearAllreduce(nn.Module):
    """As AutoTP's: the bias is added after the sum over the ranks."""

    def __init__(self, bias: nn.Parameter) -> None:
        super().__init__()
        self.bias = bias


def test_what_autotp_marks_but_does_not_cut_is_whole() -> None:
    """Before 0.17 it marked the bias of row-parallel layers; since 0.19 it notes what is replicated."""
    pytest.importorskip("deepspeed")
    mpu = SimpleNamespace(get_model_parallel_rank=lambda: 1, get_model_parallel_world_size=lambda: 2)
    old, new, slice_ = (expert(tensor_model_parallel=True) for _ in range(3))
    new.ds_autotp_universal_checkpoint_meta = {"replicated": True}  # type: ignore[attr-defined]
    uneven = expert(tensor_model_parallel=True, ds_autotp_universal_checkpoint_meta={"logical_shape": (5, 3)})
    engine = SimpleNamespace(module=nn.Sequential(LinearAllreduce(old)), mpu=mpu)
    assert internals.model_parallel(engine, old) == internals.Slice(1, 0, 6)
    assert internals.model_parallel(engine, new) == internals.Slice(1, 0, 6)
    assert internals.model_parallel(engine, slice_) == internals.Slice(2, 1, 12)
    assert internals.model_parallel(engine, uneven) == internals.Slice(2, 1, 15)


def clips(stage: int) -> str:
    """From a JSON entry, as users have it."""
    import_deepspeed()
    entry = {"type": "Prodigy", "params": {"clip_norm": 1.0}}
    model = nn.Linear(3, 2)
    engine = initialize(stage, {}, model=model, config={"optimizer": entry}, model_parameters=[*model.parameters()])
    return error_of(lambda: step(engine))


@pytest.mark.parametrize("stage", [1, 3])
def test_clipping_that_zero_does_itself_is_refused(stage: int, pool2: WorkerPool) -> None:
    for said in pool2.run(clips, stage):
        assert "clip_norm=1.0" in said
        assert 'set "gradient_clipping" in the DeepSpeed configuration' in said
