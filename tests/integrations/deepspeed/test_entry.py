"""Check that DeepSpeed finds our optimizers by their JSON name without a flag, and that failure gives a message."""

import logging
import subprocess
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import nn

import dadapt_dist as dd
from dadapt_dist import optimizers
from dadapt_dist.integrations.deepspeed import registration
from dadapt_dist.methods.registry import class_names
from tests.helpers.classes import VARIANTS
from tests.helpers.pool import WorkerPool

NAMES = [cls.__name__ for cls in optimizers.classes().values()]


class Theirs(torch.optim.SGD):
    """Stands for an optimizer of another package."""


def their_function() -> None:
    """Stands for something else that they put there."""


@pytest.fixture
def torch_optim(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """Changes of torch.optim that end with the test."""
    with monkeypatch.context() as patch:
        yield patch
    registration.register()


# ---------------------------------------------------------------- the names


def test_every_public_optimizer_is_registered() -> None:
    public = {name for name in dd.__all__ if isinstance(getattr(dd, name), type)}
    optimizers = {n for n in public if issubclass(getattr(dd, n), dd.LearningRateFree)}
    optimizers -= {
        "LearningRateFree",
        "Mechanic",
        "TRAC",
    }  # these two take an optimizer, which no configuration can name
    assert set(class_names()) == optimizers == {*NAMES, *VARIANTS}
    assert all(getattr(torch.optim, name) is getattr(dd, name) for name in class_names())


def test_registering_again_changes_and_says_nothing(library_log: pytest.LogCaptureFixture) -> None:
    before = dict(vars(torch.optim))
    registration.register()
    assert dict(vars(torch.optim)) == before
    assert library_log.messages == []


@pytest.mark.parametrize("theirs", [Theirs, their_function, 3], ids=["class", "function", "other"])
def test_a_foreign_name_stays_and_the_warning_says_whose_it_is(
    torch_optim: pytest.MonkeyPatch, library_log: pytest.LogCaptureFixture, theirs: Any
) -> None:
    torch_optim.setattr(torch.optim, "Prodigy", theirs)
    registration.register()
    assert torch.optim.Prodigy is theirs
    (record,) = library_log.records
    assert record.levelno == logging.WARNING
    whose = "builtins.int" if theirs == 3 else f"{__name__}.{theirs.__qualname__}"
    assert f"torch.optim.Prodigy is {whose}" in record.getMessage()
    assert "optimizer=lambda params: dadapt_dist.Prodigy(params)" in record.getMessage()


def test_a_class_of_an_earlier_import_of_this_package_gives_way(torch_optim: pytest.MonkeyPatch) -> None:
    earlier = type("Prodigy", (Theirs,), {"__module__": "dadapt_dist.optimizers"})
    torch_optim.setattr(torch.optim, "__getattr__", {"Prodigy": earlier, "Other": 7}.__getitem__)
    registration.register()
    assert torch.optim.Prodigy is dd.Prodigy
    assert torch.optim.Other == 7  # another package's way of adding names goes on
    torch_optim.setattr(registration, "_before", [])
    with pytest.raises(AttributeError, match=r"module 'torch\.optim' has no attribute 'prodigy'"):
        assert torch.optim.prodigy
    with pytest.raises(ImportError):
        from torch.optim import prodigy  # noqa: F401


REGISTRY = """
import sys, torch, dadaptation
if sys.argv[1] == "before":
    import dadapt_dist
# as mmengine's registry: by the names of torch.optim, then dadaptation's
known = {}
for name in dir(torch.optim):
    found = getattr(torch.optim, name)
    if not name.startswith("__") and isinstance(found, type) and issubclass(found, torch.optim.Optimizer):
        known[name] = found
for name in ("DAdaptAdaGrad", "DAdaptAdam", "DAdaptSGD"):
    if name in known:
        raise KeyError(f"{name} is already registered in optimizer at {known[name].__module__}")
import dadapt_dist
print(torch.optim.Prodigy.__module__)
"""


@pytest.mark.parametrize("imported", ["before", "after"])
def test_a_registry_of_all_of_torch_optim_and_then_dadaptation_meets_no_name_twice(imported: str) -> None:
    """A stand-in for mmengine.optim, whose own registry takes both packages in either order: seen with mmengine 0.10.7."""
    done = subprocess.run([sys.executable, "-c", REGISTRY, imported], capture_output=True, text=True, timeout=60)
    assert done.stdout == "dadapt_dist.optimizers\n", done.stderr


@pytest.mark.parametrize(
    ("before", "there"),
    [
        ("", "True"),
        ("os.environ['DADAPT_DIST_REGISTER'] = '0'", "False"),
        (
            "import importlib.util as u; own = u.find_spec; u.find_spec = lambda n: None if n == 'deepspeed' else own(n)",
            "False",
        ),
    ],
    ids=["installed", "switched off", "not installed"],
)
def test_torch_optim_is_entered_only_for_an_installed_deepspeed_and_may_be_left_alone(before: str, there: str) -> None:
    program = f"import os, torch\n{before}\nimport dadapt_dist; print(hasattr(torch.optim, 'Prodigy'))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.stdout == f"{there}\n", done.stderr


def test_switched_off_deepspeeds_list_stays_too(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = ModuleType("deepspeed.runtime.zero.utils")
    monkeypatch.setitem(sys.modules, loaded.__name__, loaded)
    monkeypatch.setenv("DADAPT_DIST_REGISTER", "0")
    loaded.ZERO_SUPPORTED_OPTIMIZERS = known = []
    registration.accept(dd.Prodigy)
    assert known == []


def test_importing_imports_no_deepspeed() -> None:
    program = "import sys, torch, dadapt_dist; print('deepspeed' in sys.modules, torch.optim.Prodigy.__module__)"
    done = subprocess.run([sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, timeout=60)
    assert done.stdout == "False dadapt_dist.optimizers\n", done.stderr


# ---------------------------------------------------------------- DeepSpeed's list


def test_a_class_is_accepted_once_and_only_where_deepspeed_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    name = "deepspeed.runtime.zero.utils"
    monkeypatch.delitem(sys.modules, name, raising=False)
    registration.accept(dd.Prodigy)
    assert name not in sys.modules

    loaded = ModuleType(name)
    monkeypatch.setitem(sys.modules, name, loaded)
    registration.accept(dd.Prodigy)  # a release without the list
    loaded.ZERO_SUPPORTED_OPTIMIZERS = known = [torch.optim.Adam]
    registration.accept(dd.Prodigy)
    registration.accept(dd.Prodigy)
    assert known == [torch.optim.Adam, dd.Prodigy]


# ---------------------------------------------------------------- DeepSpeed itself


def build(name: str, stage: int, **params: Any) -> tuple[str, dict[str, Any]]:
    """Class and defaults of the optimizer that DeepSpeed makes of a JSON entry alone."""
    import deepspeed

    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    config = {
        "train_micro_batch_size_per_gpu": 4,
        "gradient_clipping": 0.0,
        "optimizer": {"type": name, "params": params},
        "zero_optimization": {"stage": stage},
    }
    model = nn.Linear(3, 2)
    engine = deepspeed.initialize(model=model, model_parameters=model.parameters(), config=config)[0]
    base = engine.basic_optimizer
    engine.destroy()
    return f"{type(base).__module__}.{type(base).__name__}", dict(base.defaults)


def build_all(stage: int) -> dict[str, str]:
    return {name: build(name, stage, lr=0.5, weight_decay=0.25)[0] for name in NAMES}


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_a_json_entry_alone_builds_every_optimizer_at_every_stage(pool2: WorkerPool, stage: int) -> None:
    expected = {name: f"dadapt_dist.optimizers.{name}" for name in NAMES}
    assert pool2.run(build_all, stage) == [expected, expected]


def test_the_params_of_the_entry_reach_the_constructor(pool2: WorkerPool) -> None:
    params: dict[str, Any] = {"lr": 0.5, "betas": [0.8, 0.9], "d0": 1e-5, "safeguard_warmup": True, "slice_p": 2}
    for _, defaults in pool2.run(build, "Prodigy", 2, **params):
        assert {name: defaults[name] for name in params} == params | {"betas": (0.8, 0.9)}


def test_the_recipe_may_stand_in_the_entry(pool2: WorkerPool) -> None:
    for _, defaults in pool2.run(build, "Prodigy", 2, recipe="auto", total_steps=100):
        expected = {
            "recipe": "auto",
            "total_steps": 100,
            "exact_bias_correction": True,
            "same_weights": True,
            "length_scaling": True,
            "rms_cap": 0.2,
        }
        assert {name: defaults[name] for name in expected} == expected
    with pytest.raises(ValueError, match=r"recipe='best' is out of range; it must be None or 'auto'"):
        pool2.run(build, "Prodigy", 2, recipe="best")


def test_an_unknown_param_raises_and_names_what_was_meant(pool2: WorkerPool) -> None:
    with pytest.raises(TypeError, match=r"Prodigy: unknown keyword 'd_coeff'; did you mean 'd_coef'"):
        pool2.run(build, "Prodigy", 2, d_coeff=2.0)


def test_a_name_in_another_case_is_deepspeeds_error(pool2: WorkerPool) -> None:
    """`dadapt-dist run` adds what was meant; see test_run.py."""
    with pytest.raises(AssertionError, match="prodigy is not a supported DeepSpeed Optimizer"):
        pool2.run(build, "prodigy", 2)


class Mine(dd.Prodigy):
    """A user's own."""


def build_mine() -> str:
    import deepspeed

    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    model = nn.Linear(3, 2)
    config = {"train_micro_batch_size_per_gpu": 4, "gradient_clipping": 0.0, "zero_optimization": {"stage": 2}}
    engine = deepspeed.initialize(model=model, optimizer=Mine(model.parameters()), config=config)[0]
    engine.destroy()
    return type(engine.basic_optimizer).__name__


def test_an_object_of_a_users_subclass_needs_no_flag(pool2: WorkerPool) -> None:
    assert pool2.run(build_mine) == ["Mine", "Mine"]
