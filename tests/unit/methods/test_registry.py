"""What is made from the methods' files: public classes with signatures and docstrings, their stub, their page, their names."""

import doctest
import inspect
import pickle
import pydoc
import subprocess
import sys
from dataclasses import FrozenInstanceError, fields
from pathlib import Path
from typing import Any

import dadaptation
import prodigyopt
import pytest
import torch
from torch import nn

import dadapt_dist as dd
from dadapt_dist import optimizers
from dadapt_dist.engine.optimizer_class import Common
from dadapt_dist.methods import METHODS, Method, registry
from dadapt_dist.tools import generate
from dadapt_dist.tools.method_names import method_names
from tests.helpers.registered import registrations_undone

PUBLIC = optimizers.classes()
COMMON = ["layer_scale", "maximize", *(option.name for option in fields(Common))]


def weights() -> list[nn.Parameter]:
    return [nn.Parameter(torch.ones(3))]


RELEASED = {"prodigy": prodigyopt.Prodigy} | {
    name: getattr(dadaptation, cls.__name__) for name, cls in PUBLIC.items() if name.startswith("dadapt_")
}


@pytest.mark.parametrize("name", RELEASED)
def test_a_call_by_position_means_what_it_means_in_the_released_packages(name: str) -> None:
    ours, theirs = (list(inspect.signature(cls).parameters.values()) for cls in (PUBLIC[name], RELEASED[name]))
    by_position = [(p.name, p.default) for p in ours if p.kind is p.POSITIONAL_OR_KEYWORD]
    assert by_position[: len(theirs)] == [(p.name, p.default) for p in theirs if p.name != "layer_scale"]


@pytest.mark.parametrize("name", METHODS)
def test_signature_and_help_show_every_option(name: str) -> None:
    parameters = list(inspect.signature(PUBLIC[name]).parameters.values())
    later = [option for option in METHODS[name].options.of_constructor() if option.metadata.get("later")]
    assert {p.name for p in parameters if p.kind is p.KEYWORD_ONLY} == {*COMMON, *(option.name for option in later)}
    assert all(p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY) for p in parameters)
    shown = pydoc.render_doc(PUBLIC[name], renderer=pydoc.plaintext)
    assert all(f"{p.name}: " in shown for p in parameters)


@pytest.mark.parametrize("name", METHODS)
def test_options_by_position_arrive_where_they_belong(name: str) -> None:
    cls, parameters = PUBLIC[name], inspect.signature(PUBLIC[name]).parameters
    options = [p for p in parameters.values() if p.kind is p.POSITIONAL_OR_KEYWORD and p.name != "params"]
    assert cls(weights(), 0.5).defaults["lr"] == 0.5
    assert cls(params=weights(), lr=0.5).defaults["lr"] == 0.5
    whole = cls(weights(), *(p.default for p in options))
    assert all(whole.defaults[p.name] == p.default for p in options if p.name != "fsdp_in_use")
    with pytest.raises(TypeError, match=f"^{cls.__name__}: multiple values for argument 'lr'"):
        cls(weights(), 0.5, lr=1.0)
    with pytest.raises(TypeError, match=f"^{cls.__name__}: too many positional arguments"):
        cls(weights(), *(p.default for p in options), 1.0)
    with pytest.raises(TypeError, match=f"^{cls.__name__}: missing a required argument: 'params'"):
        cls()


@pytest.mark.parametrize("name", METHODS)
def test_the_docstring_has_every_section_and_its_example_runs(name: str) -> None:
    text = inspect.getdoc(PUBLIC[name]) or ""
    order = [text.index(f"\n{section}:\n") for section in ("Args", "Raises", "Example", "References")]
    assert order == sorted(order)
    assert all(f"\n    {option}: " in text for option in inspect.signature(PUBLIC[name]).parameters)
    assert "arXiv" in text.split("References:")[1]
    assert max(map(len, text.splitlines())) <= 120
    parsed = doctest.DocTestParser().get_doctest(text, {}, name, None, None)
    assert len(parsed.examples) >= 5
    report: list[str] = []
    assert doctest.DocTestRunner().run(parsed, out=report.append).failed == 0, "".join(report)


def test_keywords_of_the_step_size_have_its_defaults_and_reach_it() -> None:
    of_step_size = inspect.signature(dd.StepSize).parameters
    shared = [option for option in fields(Common) if option.name in of_step_size]
    others = ["process_group", "copies", "estimates", "grad_norms"]
    values = {"freeze_after": 3, "nonfinite": "skip", "sync": "step", "before": "lagged", "clip_norm": 2.0}
    assert {option.name for option in shared} == {*values, *others} == of_step_size.keys()
    assert all(option.default == of_step_size[option.name].default for option in shared)
    found = dd.DoG(weights(), **values).step_size
    assert {name: getattr(found, name) for name in values} == values
    with pytest.raises(ValueError, match=r"^DoG: the StepSize holds before; pass"):
        dd.DoG(weights(), before="lagged", step_size=dd.StepSize())
    with pytest.raises(ValueError, match="before='late' is not one of 'exact', 'lagged'"):
        dd.DoG(weights(), before="late")


class Mine(dd.Prodigy):
    """A subclass whose constructor has a default of its own."""

    def __init__(self, params: Any, d0: float = 1e-3, **options: Any) -> None:
        super().__init__(params, d0=d0, **options)


@pytest.mark.parametrize("name", METHODS)
def test_classes_and_optimizers_pickle_and_are_found_where_they_say(name: str) -> None:
    cls = PUBLIC[name]
    assert (cls.__module__, cls.__qualname__) == ("dadapt_dist.optimizers", cls.__name__)
    assert pickle.loads(pickle.dumps(cls)) is cls is getattr(dd, cls.__name__) is getattr(optimizers, cls.__name__)
    optimizer = pickle.loads(pickle.dumps(cls(weights(), lr=0.5)))
    assert type(optimizer) is cls
    assert optimizer.param_groups[0]["lr"] == 0.5
    assert repr(optimizer).startswith(cls.__name__)


def test_a_subclass_has_its_own_defaults_and_name() -> None:
    assert Mine(weights()).d == 1e-3
    assert type(pickle.loads(pickle.dumps(Mine(weights())))) is Mine
    with pytest.raises(
        ValueError, match=r"^Mine: d0=0 is out of range; it must be a number > 0\. Use the default, 0\.001"
    ):
        Mine(weights(), d0=0)


@pytest.mark.parametrize("name", METHODS)
def test_options_are_a_frozen_dataclass_that_checks_itself(name: str) -> None:
    options: Any = METHODS[name].options
    assert METHODS[name].chosen_lr or options().lr == 1.0
    assert options(lr=torch.tensor([0.5], dtype=torch.float64), layer_scale=torch.tensor(2)).layer_scale == 2.0
    with pytest.raises(ValueError, match=rf"^{options.__name__}: lr=-1 is out of range; it must be a number >= 0\. "):
        options(lr=-1)
    with pytest.raises(FrozenInstanceError):
        options().lr = 2.0


def test_the_stub_and_the_page_are_as_the_methods_say() -> None:
    """`make format` writes them."""
    assert generate.STUB.read_text(encoding="utf-8") == generate.stub()
    page = generate.PAGE.read_text(encoding="utf-8")
    assert page == generate.page(page)


def test_names_are_found_without_torch_and_are_those_of_the_registry() -> None:
    path = Path(sys.modules[method_names.__module__].__file__ or "")
    program = (
        "import importlib.util, sys; "
        f"spec = importlib.util.spec_from_file_location('method_names', {str(path)!r}); "
        "module = importlib.util.module_from_spec(spec); spec.loader.exec_module(module); "
        "print(*module.method_names()); assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.stdout.split() == list(METHODS), done.stderr


def test_what_is_no_method_is_refused() -> None:
    prodigy = METHODS["prodigy"]
    incomplete = type("HalfMethod", (Method,), {"name": "half"})
    nameless = type("Nameless", (prodigy,), {"name": "nameless"})
    taken = type("OtherMethod", (prodigy,), {"name": "prodigy"})
    unchecked = type("XMethod", (prodigy,), {"name": "x", "options": int})
    with registrations_undone():
        for wrong, error, why in (
            (int, TypeError, "is no method: derive a class"),
            (incomplete, TypeError, "HalfMethod lacks options, documentation.*update"),
            (nameless, TypeError, "Nameless must be called <name of the public class>Method"),
            (taken, ValueError, "OtherMethod: ProdigyMethod already has the name 'prodigy'"),
            (unchecked, TypeError, "derived from MethodOptions"),
        ):
            with pytest.raises(error, match=why):
                registry.register(wrong)
        assert list(METHODS) == list(PUBLIC)
    assert registry.register(prodigy) is prodigy
    with pytest.raises(AttributeError, match="no attribute 'Zebra'"):
        _ = optimizers.Zebra  # type: ignore[attr-defined]


def test_the_tensors_of_a_step_are_counted() -> None:
    expected = {"Prodigy": 6, "DAdaptAdam": 5, "DAdaptAdaGrad": 5, "DAdaptSGD": 4, "DAdaptAdan": 7, "DAdaptLion": 4}
    assert {name: registry.tensors_of(name) for name in expected} == expected
    with pytest.raises(KeyError):
        registry.tensors_of("Zebra")
