"""A method is one file: everything of the package follows from it. This one is the whole toy, with its oracle."""

import inspect
import math
import pickle
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

import dadapt_dist as dd
from dadapt_dist import optimizers
from dadapt_dist.methods import METHODS, Buffer, Documentation, Method, registry
from dadapt_dist.methods.base import Buffers, Coefficients, Initial, Options, Scalars, Sums
from dadapt_dist.methods.ops import grown, total
from dadapt_dist.options.fields import D0, GROWTH_RATE, LR, WEIGHT_DECAY, MethodOptions, is_positive, number, option
from dadapt_dist.tools import generate, method_names
from dadapt_dist.tools.demo.settings import Settings
from dadapt_dist.tools.doctor.deepspeed_config import check as doctor
from tests.helpers.method_suite import CHECKS, Check, Row
from tests.helpers.oracles.base import Estimate, Group, Oracle, State
from tests.helpers.registered import registrations_undone


@dataclass(frozen=True)
class ToyOptions(MethodOptions):
    """Options of `Toy`."""

    lr: float = LR(1.0)
    boost: float = option(
        2.0, number, is_positive, "a number > 0", "use the default, {usual}", "multiplies the estimate"
    )
    weight_decay: float = WEIGHT_DECAY(0.0, doc="decay of the parameters, by weight_decay·d·lr a step")
    d0: float = D0(1e-4)
    growth_rate: float = GROWTH_RATE(math.inf)


class ToyMethod(Method):
    """Gradient descent along g/(1 + |g|) with D-Adaptation."""

    name = "toy_descent"
    options = ToyOptions
    documentation = Documentation(
        summary="Softened sign descent with D-Adaptation.",
        when="never: it is a test",
        reference="after Defazio and Mishchenko, arXiv 2301.07733",
        equations="""
            update  u = γ·g/(1 + |g|);  x = x·(1 - wd·γ) - r·u;  s = s + u
            sums    inner = Σ r·u·s with s of before the step,  s_l1 = Σ r·|s|
            rule    num = num + inner;  d_hat = boost·num/s_l1;  d = max(d, min(d_hat, d·growth_rate))
        """,
    )
    after = Sums(("inner", "s_l1"), needs="s_l1")

    def scalars(self, options: Options) -> dict[str, Initial]:
        return {"d": options["d0"], "numerator": 0.0}

    def constants(self, options: Options) -> dict[str, float]:
        return super().constants(options) | {"boost": options["boost"]}

    def buffers(self, options: Options) -> dict[str, Buffer]:
        return {"s": Buffer(statistic=True)}

    def coefficients(self, options: Options, scalars: Scalars, constants: Any) -> Coefficients:
        gamma = scalars["d"] * options["lr"]
        return {"gamma": gamma, "keep": 1 - gamma * options["weight_decay"], "r": options["layer_scale"]}

    def update(self, x: Tensor, g: Tensor, buf: Buffers, c: Coefficients, cut: slice | None) -> tuple[Tensor, ...]:
        u = g / (1 + g.abs()) * c["gamma"]
        x.mul_(c["keep"]).sub_(u * c["r"])
        if "s" not in buf:
            return ()
        inner = total(u * buf["s"]) * c["r"]
        return inner, total(buf["s"].add_(u).abs()) * c["r"]

    def fold_after(self, sums: Scalars, scalars: Scalars, constants: Any) -> Scalars:
        numerator = scalars["numerator"] + sums["inner"]
        d_hat = constants["boost"] * numerator / sums["s_l1"]
        return {"d": grown(scalars, d_hat, constants), "numerator": numerator}


class ToyOracle(Oracle):
    defaults: ClassVar[dict[str, Any]] = {"boost": 2.0, "weight_decay": 0.0, "growth_rate": math.inf, "d0": 1e-4}

    def new_state(self, x: Tensor, group: Group) -> State:
        return {"s": torch.zeros_like(x)}

    def new_scalars(self, group: Group) -> dict[str, Any]:
        return {"num": 0.0}

    def update(self, x: Tensor, g: Tensor, state: State, group: Group, estimate: Estimate) -> dict[str, Tensor]:
        r, gamma = group["layer_scale"], estimate["d"] * group["lr"]
        u = gamma * g / (1 + abs(g))
        inner = (r * u * state["s"]).sum()
        x.copy_(x - gamma * group["weight_decay"] * x - r * u)
        state["s"] = state["s"] + u
        return {"inner": inner, "s_l1": (r * state["s"].abs()).sum()}

    def rule(self, estimate: Estimate, sums: dict[str, float]) -> None:
        estimate["num"] += sums["inner"]
        d_hat = estimate["first"]["boost"] * estimate["num"] / sums["s_l1"]
        estimate["d"] = max(estimate["d"], min(d_hat, estimate["d"] * estimate["first"]["growth_rate"]))


@pytest.fixture
def toy() -> Iterator[Any]:
    """The optimizer class of the toy, for one test."""
    with registrations_undone():
        yield optimizers.register(ToyMethod)
    assert "toy_descent" not in METHODS
    assert not hasattr(torch.optim, "Toy")


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_the_toy_passes_the_conformance_suite(toy: Any, check: Check) -> None:
    check(Row("toy_descent", ToyOracle, {"d0": 1e-4}))


def test_the_toy_is_a_public_class(toy: Any) -> None:
    assert toy is optimizers.Toy is optimizers.classes()["toy_descent"]  # type: ignore[attr-defined]
    assert issubclass(toy, dd.LearningRateFree)
    assert (toy.__module__, toy.__qualname__) == ("dadapt_dist.optimizers", "Toy")
    assert pickle.loads(pickle.dumps(toy)) is toy
    parameters = inspect.signature(toy).parameters
    assert list(parameters)[:6] == ["params", "lr", "boost", "weight_decay", "d0", "growth_rate"]
    assert {"layer_scale", "freeze_after", "step_size"} <= set(parameters)
    assert "boost: multiplies the estimate. A number > 0; default 2.0." in toy.__doc__
    p = torch.nn.Parameter(torch.ones(2))
    with pytest.raises(
        ValueError, match=r"Toy: boost=-1 is out of range; it must be a number > 0\. Use the default, 2\.0\."
    ):
        toy([p], boost=-1)
    with pytest.raises(TypeError, match="Toy: unknown keyword 'bost'; did you mean 'boost'"):
        toy([p], bost=1.0)


def test_deepspeed_finds_the_toy_by_name(toy: Any) -> None:
    pytest.importorskip("deepspeed", reason="DeepSpeed is not installed")
    assert torch.optim.Toy is toy  # type: ignore[attr-defined]


def test_the_command_line_offers_the_toy(toy: Any, tmp_path: Any) -> None:
    assert "toy-descent" in method_names.method_flags()
    assert Settings.of({"method": "toy-descent", "out": str(tmp_path / "out")}).method == "toy-descent"


def test_the_doctor_knows_the_toy(toy: Any) -> None:
    config = {"optimizer": {"type": "Toy", "params": {"lr": 1.0}}, "gradient_clipping": 1.0}
    assert not any("optimizer" in finding.where for finding in doctor(config))
    wrong = {"optimizer": {"type": "Toy", "params": {"bost": 1.0}}}
    assert any("boost" in finding.problem for finding in doctor(wrong))
    assert registry.tensors_of("Toy") == 3


def test_the_documents_have_a_row_and_a_section_of_the_toy(toy: Any) -> None:
    page = generate.page(generate.PAGE.read_text(encoding="utf-8"))
    assert "| [`Toy`](#toy) | never: it is a test | [arXiv 2301.07733](https://arxiv.org/abs/2301.07733) |" in page
    assert "### Toy\n" in page
    assert "Defaults: `lr=1.0, boost=2.0, weight_decay=0.0, d0=0.0001, growth_rate=inf`." in page
    assert "class Toy(LearningRateFree):" in generate.stub()


def variant(**attributes: Any) -> type[Method]:
    return type("VariantMethod", (ToyMethod,), {"name": "variant", "__doc__": "A variant.", **attributes})


@pytest.mark.parametrize(
    ("attributes", "error", "said"),
    [
        ({"name": "my method"}, TypeError, r"name='my method' must be lower-case letters, digits and _"),
        ({"name": None}, TypeError, r"name=None must be lower-case"),
        ({"options": None}, TypeError, r"options must be a frozen dataclass"),
        ({"documentation": None}, TypeError, r"documentation must be a Documentation"),
        ({"before": Sums(("q",))}, TypeError, r"before = Sums\(\.\.\.\), and no measure_before"),
        ({"before": Sums(("q",)), "measure_before": lambda *_: ()}, TypeError, r"and no fold_before"),
        ({"start": Sums(("q",)), "fold_start": lambda *_: {}}, TypeError, r"and no measure_start"),
        ({"start": Sums(("q",)), "measure_start": lambda *_: ()}, TypeError, r"and no fold_start"),
        ({"fold_after": Method.fold_after}, TypeError, r"after = Sums\(\.\.\.\), and no fold_after: define it"),
        ({"scalars": lambda *_: {"lr": 1.0}}, TypeError, r"scalar 'lr' has the name of an option"),
        ({"scalars": lambda *_: {"held": 1.0}}, TypeError, r"scalar 'held' has the name of .* the engine's"),
        ({"scalars": lambda *_: {"d": math.nan}}, ValueError, r"scalar 'd' begins with nan; it must be finite"),
        ({"scalars": lambda *_: {"v": (0.0, math.inf)}}, ValueError, r"scalar 'v' begins with"),
        ({"scalars": lambda *_: {"d": 0.0}}, ValueError, r"d begins with 0\.0; it must be a number > 0"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_a_mistaken_definition_is_refused_when_it_is_registered(
    attributes: dict[str, Any], error: type[Exception], said: str
) -> None:
    with registrations_undone(), pytest.raises(error, match=f"^VariantMethod.*{said}"):
        optimizers.register(variant(**attributes))


HALF = torch.tensor([0.5, 0.5])
WRONG_FOLDS: dict[str, tuple[Any, str]] = {
    "unknown": (
        lambda sums, scalars: {"zebra": sums["q"]},
        r"returns \['zebra'\]; it must return a dict of .*: d, numerator, v",
    ),
    "the engine's": (lambda sums, scalars: {"k": sums["q"]}, r"returns \['k'\]; it must return a dict of"),
    "tensor": (lambda sums, scalars: sums["q"], r"returns Tensor; it must return a dict"),
    "nothing": (lambda sums, scalars: None, r"returns NoneType; it must return a dict"),
    "summed": (
        lambda sums, scalars: {"d": sums["q"].sum()},
        r"returns for .* 'd' torch\.float64 \[\],.*\[n_estimates\]: ",
    ),
    "no vector": (
        lambda sums, scalars: {"v": sums["q"]},
        r"returns for .* 'v' torch\.float64 \[2\],.*\[n_estimates, 3\]: ",
    ),
    "number": (lambda sums, scalars: {"d": 0.5}, r"returns for the scalar 'd' 0\.5, with n_estimates = 2"),
    "float32": (lambda sums, scalars: {"d": HALF}, r"returns for the scalar 'd' torch\.float32 \[2\],"),
    "no such sum": (lambda sums, scalars: {"d": sums["p"]}, r"fails for the sums q.* of 2 estimates: KeyError: 'p'"),
    "one estimate": (lambda sums, scalars: {"d": sums["q"] * float(scalars["d"])}, r"fails for the sums q.*Error: "),
    "in place": (lambda sums, scalars: {"d": scalars["d"].add_(1)}, r"changes a tensor that it is given, in place"),
}


@pytest.mark.parametrize("phase", ["start", "before", "after"])
@pytest.mark.parametrize("wrong", WRONG_FOLDS)
def test_a_mistaken_fold_is_refused_when_the_method_is_registered(wrong: str, phase: str) -> None:
    """It used to fail, or to move d by the sums of another estimate, once the weights had moved."""
    new, said = WRONG_FOLDS[wrong]

    def fold(self: Any, sums: Scalars, scalars: Scalars, constants: Any) -> Any:
        return new(sums, scalars)

    own = {phase: Sums(("q",)), f"measure_{phase}": lambda *_: (), f"fold_{phase}": fold}
    scalars = {"scalars": lambda *_: {"d": 1.0, "numerator": 0.0, "v": (0.0,) * 3}}
    mistaken = variant(**({"after": None} | own), **scalars)
    with registrations_undone(), pytest.raises(TypeError, match=rf"^VariantMethod\.fold_{phase} {said}") as caught:
        optimizers.register(mistaken)
    assert "variant" not in METHODS
    assert "VariantMethod" in str(caught.value)


def test_a_fold_gets_what_it_gets_in_a_step() -> None:
    """Names of its sums, scalars and constants are the same in the trial as in a run."""
    seen: list[tuple[Any, ...]] = []

    def fold(self: Any, *given: dict[str, Tensor]) -> dict[str, Tensor]:
        seen.append(tuple({name: t.shape[1:] for name, t in of.items()} for of in given))
        return {}

    phases = {"start": Sums(("p",)), "before": Sums(("q",), loss=True), "after": Sums(("r",), loss=True)}
    measures = {f"measure_{phase}": lambda self, x, *_: (total(x),) for phase in ("start", "before")}
    with registrations_undone():
        p = torch.nn.Parameter(torch.ones(3))
        steps = {"update": lambda self, x, *_: (total(x),), "counts_updates": True}
        folds = {f"fold_{phase}": fold for phase in phases}
        make = optimizers.register(variant(**phases, **measures, **steps, **folds))
        trial, seen[:] = [*seen], []
        optimizer = make([p])
        p.grad = torch.ones(3)
        optimizer.step(loss=1.0)
    assert len(seen) == 3
    assert seen == trial


@pytest.mark.parametrize("terms", [1, 3])
@pytest.mark.parametrize("phase", ["before", "after"])
def test_another_number_of_terms_than_of_sums_is_refused(phase: str, terms: int) -> None:
    given = {"after": {"update": lambda self, x, g, *_: (total(g),) * terms}}
    given["before"] = {
        "before": Sums(("p", "q")),
        "measure_before": lambda self, x, g, *_: (total(g),) * terms,
        "fold_before": lambda *_: {},
    }
    with registrations_undone():
        p = torch.nn.Parameter(torch.ones(3))
        optimizer = optimizers.register(variant(**given[phase]))([p])
        p.grad = torch.ones(3)
        with pytest.raises(TypeError, match=rf"^VariantMethod\.\w+ returned {terms} terms, and its phase has 2 sums"):
            optimizer.step()


def test_a_method_without_coefficients_steps() -> None:
    def update(self: Any, x: Tensor, g: Tensor, *_: Any) -> tuple[()]:
        x.sub_(g)
        return ()

    alone = {"after": None, "buffers": lambda *_: {}, "coefficients": lambda *_: {}, "scalars": lambda *_: {}}
    with registrations_undone():
        p = torch.nn.Parameter(torch.ones(3))
        optimizer = optimizers.register(variant(**alone, update=update))([p])
        p.grad = torch.ones(3)
        optimizer.step()
        assert p.tolist() == [0.0] * 3
