"""An optimizer is found in whatever wrappers programs put around it, however deep, and a circle of wrappers ends."""

import gc
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import pytest
import torch

import dadapt_dist as dd
from dadapt_dist.monitor import record
from dadapt_dist.sharding.live_objects import attached
from dadapt_dist.sharding.unwrapping import innermost, layers_of
from tests.helpers.wrapper import Wrapper


class Lookahead(torch.optim.Optimizer):
    """As timm's: an optimizer that has the groups and state of the one that it holds."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self._base_optimizer = optimizer
        self.defaults, self.param_groups = optimizer.defaults, optimizer.param_groups
        self.state = optimizer.state


class Container(torch.optim.Optimizer):
    """As torchtitan's: an optimizer of all parameters, which holds one for each model part."""

    def __init__(self, parts: list[torch.nn.Module], cls: type[torch.optim.Optimizer], options: dict[str, Any]) -> None:
        self.optimizers = [cls(part.parameters(), **options) for part in parts]
        super().__init__([p for part in parts for p in part.parameters()], options)

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for optimizer in self.optimizers:
            optimizer.step()


def torchft(optimizer: Any) -> Any:
    """As torchft's OptimizerWrapper."""
    return SimpleNamespace(optim=optimizer)


def parts() -> list[torch.nn.Module]:
    return [torch.nn.Linear(3, 3), torch.nn.Linear(3, 1)]


def prodigy(**options: Any) -> dd.LearningRateFree:
    return dd.Prodigy(torch.nn.Linear(2, 1).parameters(), d0=1e-3, **options)


def test_it_is_found_in_every_kind_of_wrapper_and_in_all_of_them_at_once() -> None:
    optimizer = prodigy()
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda _: 1.0)
    for wrapped in (
        Wrapper(optimizer),
        torchft(optimizer),
        Lookahead(optimizer),
        SimpleNamespace(optimizers=[optimizer]),
        SimpleNamespace(optimizers=[[optimizer]]),
        SimpleNamespace(optimizers=[optimizer, Wrapper(optimizer), optimizer]),
        Wrapper(torchft(SimpleNamespace(optimizers=(torchft(Lookahead(Wrapper(optimizer))),)))),
        SimpleNamespace(optimizers=[torch.optim.SGD(torch.nn.Linear(1, 1).parameters(), lr=1.0), optimizer]),
        scheduler,
    ):
        assert dd.base_optimizer(wrapped) is optimizer
        assert dd.log_values(wrapped) == dd.log_values(optimizer)
        assert record(wrapped) == record(optimizer)


def test_what_only_looks_like_a_wrapper_is_none() -> None:
    optimizer = prodigy()
    module = SimpleNamespace(optimizer="adamw", optim=torch.optim, optimizers=list, _base_optimizer=dd.Prodigy)
    assert layers_of(module) == [module]
    assert layers_of(Wrapper(optimizer))[1:] == [optimizer]
    with pytest.raises(TypeError, match="SimpleNamespace is no learning-rate-free optimizer"):
        dd.base_optimizer(module)


def test_a_circle_ends_and_what_makes_wrappers_without_end_too() -> None:
    optimizer, first, second = prodigy(), torchft(None), torchft(None)
    first.optim, second.optim = second, first
    assert [len(layers) for layers in innermost(first)] == [2]
    both = SimpleNamespace(optimizers=[first, optimizer])
    both.optimizers.append(both)
    assert dd.base_optimizer(both) is optimizer
    for strange in (first, MagicMock()):
        with pytest.raises(TypeError, match="no learning-rate-free optimizer"):
            dd.base_optimizer(strange)


def test_a_container_of_model_parts_that_share_d_is_logged_as_one() -> None:
    container = Container(parts(), dd.Prodigy, {"lr": 1.0, "d0": 1e-3, "step_size": "model parts"})
    for p in container.param_groups[0]["params"]:
        p.grad = torch.ones_like(p)
    container.step()
    one, other = container.optimizers
    assert one.step_size is other.step_size  # type: ignore[attr-defined]
    assert dd.log_values(torchft(container)) == dd.log_values(one) == dd.log_values(other)
    other.param_groups[0]["lr"] = 0.5
    values = dd.log_values(container)
    assert values["d"] == one.d  # type: ignore[attr-defined]
    assert values["effective_lr/1"] == values["effective_lr/0"] / 2
    with pytest.raises(TypeError, match="Container holds 2 optimizers of dadapt_dist; give its members one by one"):
        dd.base_optimizer(container)


def test_optimizers_with_a_d_of_their_own_are_numbered() -> None:
    two = SimpleNamespace(optimizers=[prodigy(), dd.Prodigy(torch.nn.Linear(1, 1).parameters(), d0=1e-4)])
    values = dd.log_values(two)
    assert (values["d/0"], values["d/1"]) == (1e-3, 1e-4)
    assert record(two) == {"lr": 1.0, **values}


def test_another_optimizer_is_recorded_as_it_is() -> None:
    sgd = torch.optim.SGD(torch.nn.Linear(1, 1).parameters(), lr=0.1)
    assert record(sgd) == record(Lookahead(sgd)) == {"lr": 0.1, "effective_lr": 0.1}


def test_attach_finds_what_an_optimizer_inside_a_wrapper_holds() -> None:
    accelerate = pytest.importorskip("accelerate.optimizer")
    scaler = torch.amp.GradScaler("cpu")
    prepared = object.__new__(accelerate.AcceleratedOptimizer)
    prepared.optimizer, prepared.scaler = prodigy(), scaler
    dd.attach(torchft(prepared))
    assert any(found is scaler for found in attached(torch.amp.GradScaler))
    with pytest.raises(TypeError, match="holds nothing to attach"):
        dd.attach(torchft(prodigy()))
    del prepared
    gc.collect()
