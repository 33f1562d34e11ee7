"""Programs that make the optimizer from a config or the command line: Hydra, torchtune, litgpt, Lightning's command line."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader

import dadapt_dist as dd
from tests.helpers.program_runs import NEARLY, OPTIONS, STEPS, data, needs, plain, rows, small, train

# ---------------------------------------------------------------- Hydra

HYDRA = """
optimizer:
  _target_: dadapt_dist.Prodigy
  d0: 1e-6
  d_coef: 1.5
  betas: [0.9, 0.995]
  step_size: model
"""


def hydra(partial: bool) -> float:
    from hydra import compose, initialize_config_dir
    from hydra.utils import instantiate

    Path("config.yaml").write_text(HYDRA)
    with initialize_config_dir(str(Path.cwd()), version_base="1.3"):
        config = compose("config", overrides=["optimizer.d0=1e-4"])
    model = small()
    if partial:
        optimizer = instantiate(config.optimizer, _partial_=True)(model.parameters())
    else:
        optimizer = instantiate(config.optimizer, params=model.parameters())
    train(model, optimizer)
    return float(optimizer.d)


@needs("hydra", "omegaconf")
@pytest.mark.parametrize("partial", [False, True])
def test_hydra_builds_it_from_a_config_and_overrides(apart: Any, partial: bool) -> None:
    assert apart(hydra, partial) == plain()


# ---------------------------------------------------------------- torchtune

TORCHTUNE = """
optimizer: {_component_: dadapt_dist.Prodigy, lr: 1.0, d0: 1e-4, d_coef: 1.5, betas: [0.9, 0.995], step_size: model}
"""


def torchtune(in_backward: bool) -> tuple[float, float]:
    """d, and what is logged, with one optimizer, or with one for each parameter as its `optimizer_in_bwd` makes them."""
    from omegaconf import OmegaConf
    from torchtune import config, training

    settings, model = OmegaConf.create(TORCHTUNE).optimizer, small()
    if not in_backward:
        optimizer = config.instantiate(settings, model.parameters())
        train(model, optimizer)
        return float(optimizer.d), dd.log_values(optimizer)["d"]
    each = {p: config.instantiate(settings, [p]) for p in model.parameters()}
    training.register_optim_in_bwd_hooks(model=model, optim_dict=each)
    wrapper = training.create_optim_in_bwd_wrapper(model=model, optim_dict=each)
    for step in range(STEPS):
        ((model(data(step)[0]) - data(step)[1]) ** 2).mean().backward()
    (found,) = {float(optimizer.d) for optimizer in wrapper.optim_map.values()}
    return found, dd.log_values(next(iter(each.values())))["d"]


@needs("torchtune", "torchao", "omegaconf")
@pytest.mark.parametrize("in_backward", [False, True])
def test_torchtune_builds_it_from_a_component_and_one_a_parameter_that_share_d(apart: Any, in_backward: bool) -> None:
    d, logged = apart(torchtune, in_backward)
    assert d == logged == pytest.approx(plain(), **NEARLY)


# ---------------------------------------------------------------- litgpt


def litgpt(given: Any) -> float:
    from litgpt.utils import instantiate_torch_optimizer

    model = small()
    optimizer = instantiate_torch_optimizer(given, model.parameters(), fused=False)
    train(model, optimizer)
    return float(optimizer.d)


@needs("litgpt")
def test_litgpt_instantiates_it_from_a_class_path_with_arguments_and_by_name(apart: Any) -> None:
    assert apart(litgpt, {"class_path": "dadapt_dist.Prodigy", "init_args": OPTIONS}) == plain()
    by_name = apart(litgpt, "dadapt_dist.Prodigy")
    assert 1e-6 < by_name != plain()


# ---------------------------------------------------------------- Lightning's command line


def lightning_cli(arguments: list[str]) -> tuple[float, float]:
    """d at the end, and as the callback logged it for the last step."""
    import lightning.pytorch as pl
    from lightning.pytorch.cli import LightningCLI

    from dadapt_dist.integrations.lightning import DAdaptCallback

    class Module(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = small()

        def training_step(self, both: Any, index: int) -> torch.Tensor:
            return ((self.net(both[0]) - both[1]) ** 2).mean()

    class Data(pl.LightningDataModule):
        def train_dataloader(self) -> Any:
            return DataLoader(rows(), batch_size=8)  # type: ignore[arg-type]

    cli = LightningCLI(
        Module,
        Data,
        seed_everything_default=False,
        save_config_callback=None,
        trainer_defaults={
            "accelerator": "cpu", "max_epochs": 1, "logger": False, "enable_checkpointing": False, "log_every_n_steps": 1,
            "enable_progress_bar": False, "enable_model_summary": False, "callbacks": [DAdaptCallback()],
        },
        args=arguments,
    )  # fmt: skip
    (optimizer,) = cli.trainer.optimizers
    return float(dd.base_optimizer(optimizer).d), float(cli.trainer.callback_metrics["d"])


@needs("lightning", "jsonargparse")
def test_lightnings_command_line_takes_the_class_and_its_options(apart: Any) -> None:
    options = ["--optimizer.d0=1e-4", "--optimizer.d_coef=1.5", "--optimizer.betas=[0.9, 0.995]"]
    d, logged = apart(lightning_cli, ["fit", "--optimizer=dadapt_dist.Prodigy", *options])
    assert d == plain()
    assert logged == pytest.approx(plain(STEPS - 1), **NEARLY)  # in float32, and of the step being taken
