"""lrfree is dadapt_dist under a second name: the same objects, loaded once, at the same cost, with types."""

import importlib
import importlib.util
import pickle
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import dadapt_dist
import lrfree
from tests.helpers.programs import kohya

FOLDER = Path(lrfree.__file__).parent
STUBS = sorted(path.relative_to(FOLDER).with_suffix("").as_posix().replace("/", ".") for path in FOLDER.rglob("*.pyi"))


def child(program: str) -> None:
    line = [sys.executable, "-W", "error", "-c", program]
    done = subprocess.run(line, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr


def test_every_public_name_is_the_very_object_of_dadapt_dist() -> None:
    assert lrfree.__all__ == dadapt_dist.__all__
    assert [name for name in dadapt_dist.__all__ if getattr(lrfree, name) is not getattr(dadapt_dist, name)] == []
    assert set(dadapt_dist.__all__) <= set(dir(lrfree))
    with pytest.raises(AttributeError, match="NoSuchName"):
        lrfree.NoSuchName  # noqa: B018


def test_modules_are_those_of_dadapt_dist_however_deep_they_lie() -> None:
    for name in ("optimizers", "schedules", "launch", "monitor.jsonl", "integrations.deepspeed.registration"):
        assert importlib.import_module(f"lrfree.{name}") is importlib.import_module(f"dadapt_dist.{name}")
    assert importlib.util.find_spec("lrfree.nothing_here") is None
    with pytest.raises(ModuleNotFoundError, match=r"No module named 'lrfree\.nothing_here'"):
        importlib.import_module("lrfree.nothing_here")


def test_pickles_and_state_dicts_do_not_know_the_second_name() -> None:
    p = torch.nn.Parameter(torch.ones(2))
    optimizer = lrfree.Prodigy([p])
    p.grad = torch.ones(2)
    optimizer.step()
    for saved in (lrfree.Prodigy, optimizer.state_dict(), optimizer):
        assert b"lrfree" not in pickle.dumps(saved)
    assert pickle.loads(pickle.dumps(lrfree.Prodigy)) is dadapt_dist.Prodigy
    assert pickle.loads(b"clrfree.optimizers\nProdigy\n.") is dadapt_dist.Prodigy


def test_sd_scripts_takes_this_name_and_not_the_first() -> None:
    """With the calls of its get_optimizer."""
    p = torch.nn.Parameter(torch.ones(2))
    args = ["betas=(0.9,0.99)", "weight_decay=0.01", "decouple=True", "recipe='auto'"]
    for name in ("lrfree.Prodigy", "lrfree.optimizers.Prodigy"):
        told, optimizer = kohya(name, args, [{"params": [p], "lr": 1.0}], 1.0)
        assert told == "dadapt_dist.optimizers.Prodigy"
        assert type(optimizer) is dadapt_dist.Prodigy
    with pytest.raises(ValueError, match="Unknown optimizer type"):
        kohya("dadapt_dist.Prodigy", args, [p], 1.0)


@pytest.mark.slow
def test_it_loads_nothing_that_dadapt_dist_does_not_and_under_the_console_script_leaves_torch_alone() -> None:
    child(
        "import sys, dadapt_dist_cli, lrfree\n"
        "assert 'torch' not in sys.modules\n"
        "assert lrfree.Prodigy.__name__ == 'Prodigy'\n"
        "before = {*sys.modules}\n"
        "import lrfree.optimizers\n"
        "assert {*sys.modules} - before == {'lrfree.optimizers'}\n"
    )


def test_a_module_runs_by_its_second_name(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["run.py", "--help"])
    with pytest.raises(SystemExit):
        runpy.run_module("lrfree.run", run_name="__main__", alter_sys=True)
    assert capsys.readouterr().out.startswith("usage: dadapt-dist run")


def test_the_stubs_are_of_modules_that_exist_and_a_type_marker_stands_beside_them() -> None:
    assert (FOLDER / "py.typed").exists()
    assert {"optimizers", "schedules", "launch", "monitor", "checkpoint"} <= {*STUBS}
    for name in STUBS:
        assert importlib.util.find_spec(f"dadapt_dist.{name.removesuffix('.__init__')}") is not None, name
        star = f"from dadapt_dist.{name} import *"
        assert star in (FOLDER / f"{name.replace('.', '/')}.pyi").read_text() or name.endswith("__init__")
