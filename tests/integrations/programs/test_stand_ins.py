"""`dadapt-dist run --as`: programs that import prodigyopt or dadaptation get dadapt_dist's classes, in all their processes."""

import importlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import dadapt_dist as dd
from dadapt_dist.integrations import run_script, stand_ins
from tests.helpers.launchers import BIN, environment
from tests.helpers.programs import KOHYA_DADAPT, ai_toolkit, diffusers, kohya, kohya_logs, onetrainer


def forget() -> dict[str, Any]:
    """Take both packages out of sys.modules."""
    found = {name: module for name, module in sys.modules.items() if name.partition(".")[0] in stand_ins.NAMES}
    for name in found:
        del sys.modules[name]
    return found


@pytest.fixture
def standing_in(
    monkeypatch: pytest.MonkeyPatch, library_log: pytest.LogCaptureFixture
) -> Iterator[pytest.LogCaptureFixture]:
    """Both packages stood in for, in this process; the real ones are installed, and back afterwards; with the log."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setenv("PYTHONPATH", "elsewhere")
    monkeypatch.setattr(stand_ins, "_said", set())
    before = forget()
    stand_ins.enter(stand_ins.NAMES, after_first=False)
    yield library_log
    forget()
    sys.modules.update(before)


def weights() -> list[torch.nn.Parameter]:
    return [torch.nn.Parameter(torch.full((3, 2), 0.5)), torch.nn.Parameter(torch.ones(4))]


def trained(optimizer: torch.optim.Optimizer) -> Any:
    """Two steps; the optimizer, which must be one of dadapt_dist."""
    assert isinstance(optimizer, dd.LearningRateFree)
    for _ in range(2):
        for group in optimizer.param_groups:
            for p in group["params"]:
                p.grad = p.detach() - 3.0
        optimizer.step()
    return optimizer


# ---------------------------------------------------------------- the calls of programs


@pytest.mark.parametrize("name", ["Prodigy", *KOHYA_DADAPT])
def test_sd_scripts_trains_with_our_class_and_logs_its_d(standing_in: pytest.LogCaptureFixture, name: str) -> None:
    groups = [{"params": [p], "lr": 1.0} for p in weights()]  # it groups text encoder and U-Net
    told, made = kohya(name, ["weight_decay=0.01"], groups, 1.0)
    optimizer = trained(made)
    assert told == f"dadapt_dist.optimizers.{type(optimizer).__name__}"
    assert kohya_logs(optimizer) == [optimizer.d, optimizer.d]


def test_sd_scripts_passes_the_options_of_the_released_packages(standing_in: pytest.LogCaptureFixture) -> None:
    args = ["decouple=True", "weight_decay=0.6", "betas=(0.9,0.99)", "use_bias_correction=False", "d_coef=2"]
    _, made = kohya("prodigy", args, weights(), 1.0)
    group = trained(made).param_groups[0]
    assert (group["decouple"], group["weight_decay"], group["betas"], group["d_coef"]) == (True, 0.6, (0.9, 0.99), 2)
    with pytest.raises(TypeError, match="unknown keyword 'decoupled'"):
        kohya("dadaptadam", ["decoupled=True"], weights(), 1.0)


def test_ai_toolkit_diffusers_and_onetrainer_train_with_our_classes(standing_in: pytest.LogCaptureFixture) -> None:
    made = {
        "Prodigy": [
            ai_toolkit("Prodigy", 1e-4, {"weight_decay": 0.01}, weights()),
            diffusers([{"params": weights(), "lr": 1.0}]),
            onetrainer("PRODIGY", weights()),
        ],
        "DAdaptAdam": [ai_toolkit("dadaptation", 1.0, {}, weights())],
        "DAdaptLion": [onetrainer("DADAPT_LION", weights())],
        "DAdaptAdaGrad": [onetrainer("DADAPT_ADA_GRAD", weights())],
    }
    for name, optimizers in made.items():
        assert {type(trained(optimizer)) for optimizer in optimizers} == {getattr(dd, name)}
    assert made["Prodigy"][0].param_groups[0]["eps"] == 1e-6


def test_a_checkpoint_of_the_real_package_is_told_apart_with_the_cure(standing_in: pytest.LogCaptureFixture) -> None:
    forget()
    sys.path[:] = [folder for folder in sys.path if "stand_ins" not in folder]
    real = importlib.import_module("prodigyopt").Prodigy(weights())
    with pytest.raises(ValueError, match="convert"):
        dd.Prodigy(weights()).load_state_dict(real.state_dict())


# ---------------------------------------------------------------- the packages


def test_the_packages_have_the_names_of_the_released_ones(standing_in: pytest.LogCaptureFixture) -> None:
    """Every class, in every module that the released packages have it in, and its parameters in their order."""
    ours = {name: importlib.import_module(name) for name in released_modules()}
    assert all("stand_ins" in str(module.__file__) for module in ours.values())
    forget()
    sys.path[:] = [folder for folder in sys.path if "stand_ins" not in folder]
    for name, module in ours.items():
        real = importlib.import_module(name)
        assert "stand_ins" not in str(real.__file__)
        for cls in (found for found in vars(real).values() if isinstance(found, type) and in_package(found, name)):
            assert issubclass(getattr(module, cls.__name__), dd.LearningRateFree), (name, cls)


def released_modules() -> list[str]:
    parts = ("adagrad", "adam", "adan", "lion", "sgd")
    return ["prodigyopt", "prodigyopt.prodigy", "dadaptation", "dadaptation.experimental"] + [
        f"dadaptation.dadapt_{part}" for part in parts
    ]


def in_package(cls: type, module: str) -> bool:
    return cls.__module__.partition(".")[0] == module.partition(".")[0]


def test_it_is_logged_once_for_each_package_and_earlier_forms_warn(standing_in: pytest.LogCaptureFixture) -> None:
    importlib.import_module("prodigyopt")
    importlib.import_module("prodigyopt.prodigy")
    assert standing_in.messages == ["prodigyopt is dadapt_dist, which stands in for it: Prodigy"]
    experimental = importlib.import_module("dadaptation.experimental")
    standing_in.clear()
    for _ in range(2):
        assert experimental.DAdaptAdanIP is dd.DAdaptAdan
    assert len(standing_in.messages) == 1
    assert standing_in.messages[0].startswith("dadaptation.experimental.DAdaptAdanIP is an earlier form of DAdaptAdan.")
    with pytest.raises(AttributeError, match="NoSuchName"):
        experimental.NoSuchName  # noqa: B018


def test_only_the_packages_that_were_named_are_stood_in_for(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, standing_in: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(sys, "path", [str(tmp_path), *(folder for folder in sys.path if "stand_ins" not in folder)])
    monkeypatch.delenv("PYTHONPATH")
    for _ in range(2):
        stand_ins.enter(["prodigyopt"], after_first=True)
    assert sys.path[0] == str(tmp_path)
    assert os.environ["PYTHONPATH"] == str(stand_ins.FOLDER / "prodigyopt")
    assert importlib.import_module("prodigyopt").Prodigy is dd.Prodigy
    assert importlib.import_module("dadaptation").DAdaptAdam is not dd.DAdaptAdam


# ---------------------------------------------------------------- the command


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--as", "prodigy", "train.py"], "--as prodigy: 'prodigy' must be prodigyopt or dadaptation"),
        (["--as=prodigyopt,", "train.py"], "'' must be prodigyopt or dadaptation"),
        (["--as"], "--as is the last word: it needs a value"),
        (["--optim", "prodigy", "--as", "dadaptation"], "the first argument must be the script"),
        (["--as", "prodigyopt", "beside/train.py"], "prodigyopt.py stands beside the script and comes first"),
        (["--optim", "adamw", "train.py"], "--optim adamw: no optimizer is called 'adamw'; give one of AdaGradPP"),
        (["--optim", "prodigy:d00=1", "train.py"], "--optim prodigy: unknown keyword 'd00'; did you mean 'd0'?"),
        (["--optim", "Prodigy:d0=-1", "train.py"], "--optim Prodigy: d0=-1 is out of range"),
        (["--optim", "Prodigy:d0", "train.py"], "'d0' must be option=value"),
    ],
)
def test_a_wrong_switch_is_one_line_and_the_script_does_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    (tmp_path / "beside").mkdir()
    (tmp_path / "beside" / "prodigyopt.py").touch()
    for script in ("train.py", "beside/train.py"):
        (tmp_path / script).write_text("raise AssertionError")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "argv", [])
    with pytest.raises(SystemExit) as stop:
        run_script.main(arguments)
    assert stop.value.code == 2
    shown = capsys.readouterr().err
    assert shown.startswith("dadapt-dist run: ")
    assert said in shown.splitlines()[0]


# A script of a user: it knows nothing of dadapt_dist, and starts a process of its own by multiprocessing.
SCRIPT = """
import json, multiprocessing, os, sys
import prodigyopt, torch

def who(queue):
    queue.put(prodigyopt.Prodigy.__module__)

def main():
    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    torch.distributed.init_process_group("gloo")
    torch.manual_seed(0)
    model = torch.nn.Linear(4, 2)
    ddp = torch.nn.parallel.DistributedDataParallel(model)
    optimizer = prodigyopt.Prodigy(ddp.parameters(), lr=1.0, safeguard_warmup=True)
    for step in range(3):
        ddp(torch.full((2, 4), 1.0 + rank + step)).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    found = {"argv": sys.argv[1:], "d": optimizer.param_groups[0]["d"], "class": type(optimizer).__module__, "size": size}
    if rank == 0:
        context = multiprocessing.get_context("spawn")
        queue = context.Queue()
        child = context.Process(target=who, args=(queue,))
        child.start()
        found["child"] = queue.get(timeout=60)
        child.join()
    with open(f"rank-{rank}.json", "w") as file:
        json.dump({**found, "d": float(found["d"])}, file)
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()

if __name__ == "__main__":
    main()
"""
OURS = str(BIN / "dadapt-dist")


@pytest.mark.parametrize(
    "way",
    [
        "torchrun --no-python dadapt-dist run",
        pytest.param("dadapt-dist run -m torch.distributed.run", marks=pytest.mark.matrix),
    ],
)
def test_under_torchrun_two_ranks_and_a_process_of_theirs_have_our_class(tmp_path: Path, way: str) -> None:
    """Each rank's command is `dadapt-dist run`, or the launcher itself is run by it."""
    (tmp_path / "train.py").write_text(SCRIPT)
    torchrun, ours = ["--standalone", "--nproc-per-node", "2"], [OURS, "run", "--as", "prodigyopt"]
    if way.startswith("torchrun"):
        line = [sys.executable, "-m", "torch.distributed.run", *torchrun, "--no-python", *ours, "train.py"]
    else:
        line = [*ours, "-m", "torch.distributed.run", *torchrun, "train.py"]
    done = subprocess.run(
        [*line, "--steps", "3"],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    first, second = (json.loads((tmp_path / f"rank-{rank}.json").read_text()) for rank in range(2))
    assert first["argv"] == ["--steps", "3"]
    assert (first["class"], first["child"], first["size"]) == ("dadapt_dist.optimizers", "dadapt_dist.optimizers", 2)
    assert first["d"] == second["d"] > 1e-6
