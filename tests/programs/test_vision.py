"""Programs that import torchvision: timm, by its registry, and composer's Trainer."""

import importlib
from typing import Any

import pytest
import torch

import dadapt_dist as dd
from tests.helpers.program_runs import (
    OPTIONS,
    STEPS,
    apart_folder,
    import_torchvision,
    needs,
    plain,
    rows,
    small,
    train,
)

pytestmark = pytest.mark.skipif(apart_folder() is None, reason="torchvision: not installed (make test-programs)")

# ---------------------------------------------------------------- timm


def timm(name: str, steps: int) -> tuple[float, float, str]:
    """d, as logged, and the class that timm made; saved and loaded halfway."""
    import_torchvision()
    from timm.optim import OptimInfo, create_optimizer_v2

    factory = importlib.import_module("timm.optim._optim_factory")
    factory.default_registry.register(OptimInfo("lrfree", dd.Prodigy, has_betas=True))

    def make() -> Any:
        return create_optimizer_v2(model, opt=name, lr=1.0, filter_bias_and_bn=False, **OPTIONS)

    model = small()
    first = make()
    train(model, first, range(steps // 2))
    optimizer = make()
    optimizer.load_state_dict(first.state_dict())
    train(model, optimizer, range(steps // 2, steps))
    return float(dd.base_optimizer(optimizer).d), dd.log_values(optimizer)["d"], type(optimizer).__name__


@needs("timm")
def test_timm_makes_it_by_its_registered_name_and_within_lookahead(apart: Any) -> None:
    assert apart(timm, "lrfree", STEPS) == (plain(), plain(), "Prodigy")
    d, logged, kind = apart(timm, "lookahead_lrfree", 16)
    assert kind == "Lookahead"
    assert d == logged
    assert d != plain(16)  # Lookahead takes weights back after twelve steps
    assert d > 10 * OPTIONS["d0"]


# ---------------------------------------------------------------- composer


def composer() -> tuple[float, float]:
    """d, and as dadapt_dist logs it from composer's state."""
    import_torchvision()
    from composer import Trainer
    from composer.models import ComposerModel

    class Model(ComposerModel):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.net = small()

        def forward(self, both: Any) -> torch.Tensor:
            return self.net(both[0])

        def loss(self, outputs: torch.Tensor, both: Any) -> torch.Tensor:
            return ((outputs - both[1]) ** 2).mean()

    model = Model()
    trainer = Trainer(
        model=model,
        optimizers=dd.Prodigy(model.parameters(), **OPTIONS),
        train_dataloader=torch.utils.data.DataLoader(rows(), batch_size=8),  # type: ignore[arg-type]
        max_duration="1ep",
        device="cpu",
        progress_bar=False,
    )
    trainer.fit()
    (optimizer,) = trainer.state.optimizers
    return float(dd.base_optimizer(optimizer).d), dd.log_values(trainer.state)["d"]


@needs("composer")
def test_composers_trainer_trains_with_it(apart: Any) -> None:
    d, logged = apart(composer)
    assert d == logged == plain()
