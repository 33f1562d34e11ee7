"""Check that `dadapt-dist run train.py` gives a script all that `python train.py` does, plus the optimizers' names."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from dadapt_dist.integrations.run_script import _hint, main

# What a script can see of how it was started. It tells at exit: then, too, it must find itself in sys.modules.
PROGRAM = """
import atexit, json, logging, sys
import beside
facts = {
    "argv": list(sys.argv), "path0": sys.path[0], "name": __name__, "file": __file__, "package": __package__,
    "spec": __spec__ and __spec__.name, "builtins": type(__builtins__).__name__, "loader": type(__loader__).__name__,
    "names": sorted(k for k in globals() if k.startswith("__") and k != "__annotations__"), "beside": beside.__file__,
    "handlers": len(logging.getLogger().handlers), "ours": "dadapt_dist" in sys.modules,
}
def late():
    facts["main"] = sys.modules["__main__"].__dict__ is globals()
    print(json.dumps(facts))
atexit.register(late)
if "fail" in sys.argv:
    raise ZeroDivisionError("the script's own")
if "code" in sys.argv:
    sys.exit(7)
"""
WAYS = {
    "dadapt-dist run": ["-m", "dadapt_dist", "run"],
    "python -m dadapt_dist.run": ["-m", "dadapt_dist.run"],
    "console script": ["-c", "from dadapt_dist_cli import main; main()", "run"],
    "typer": ["-c", "from dadapt_dist.tools.cli import app; app()", "run"],
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a script below it, which imports a module beside itself."""
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / "train.py").write_text(PROGRAM)
    (tmp_path / "below" / "beside.py").touch()
    (tmp_path / "link.py").symlink_to(tmp_path / "below" / "train.py")
    return tmp_path


def call(folder: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    line = [sys.executable, *arguments]
    return subprocess.run(line, cwd=folder, capture_output=True, text=True, timeout=100, check=False)


def facts(done: "subprocess.CompletedProcess[str]") -> dict[str, object]:
    assert done.stdout, done.stderr
    return dict(json.loads(done.stdout))


RUNPYS = {"package": "", "loader": "NoneType", "main": False}  # what runpy.run_path makes other than python does


def as_with_python(ours: "subprocess.CompletedProcess[str]", plain: "subprocess.CompletedProcess[str]") -> bool:
    """Whether a script saw the same, but for the absolute path in sys.argv[0] and what runpy makes otherwise."""
    expected = facts(plain) | RUNPYS | {"ours": True, "builtins": facts(ours)["builtins"]}
    argv = list(expected["argv"])  # type: ignore[call-overload]
    expected["argv"] = [facts(ours)["file"], *argv[1:]]
    return facts(ours) == expected


@pytest.mark.parametrize("way", WAYS)
def test_a_script_sees_what_python_would_show_it_and_fails_as_it_would(folder: Path, way: str) -> None:
    arguments = ("below/train.py", "--help", "-m", "x", "--", "--steps=3", "-h", "", "fail")
    plain, ours = call(folder, *arguments), call(folder, *WAYS[way], *arguments)
    assert as_with_python(ours, plain)
    assert facts(ours)["argv"] == [str(folder / arguments[0]), *arguments[1:]]
    assert ours.returncode == plain.returncode == 1
    assert ours.stderr.endswith("".join(plain.stderr.splitlines(keepends=True)[1:]))  # all but "Traceback ..."


def test_a_link_a_launchers_local_rank_and_an_exit_code_are_as_with_python(folder: Path) -> None:
    """DeepSpeed's launcher writes --local_rank behind the module's name, so before the script's."""
    plain = call(folder, "link.py", "--local_rank=1", "code", "--steps", "3")
    ours = call(folder, "-m", "dadapt_dist.run", "--local_rank=1", "link.py", "code", "--steps", "3")
    assert as_with_python(ours, plain)
    assert ours.returncode == plain.returncode == 7


def test_a_module_runs_as_with_python_m(folder: Path) -> None:
    (folder / "beside.py").touch()
    plain = call(folder, "-m", "below.train", "-q")
    ours = call(folder, "-m", "dadapt_dist.run", "-m", "below.train", "-q")
    for key in ("argv", "path0", "name", "file", "package", "spec", "beside", "handlers"):
        assert facts(ours)[key] == facts(plain)[key]
    assert ours.returncode == 0


def test_a_folder_with_a_main_runs(folder: Path) -> None:
    (folder / "below" / "__main__.py").write_text("import sys, beside; print(sys.argv, __name__)")
    ours = call(folder, "-m", "dadapt_dist.run", "below", "1")
    assert ours.stdout == "['below', '1'] __main__\n", ours.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["missing.py"], "missing.py does not exist in "),
        (["."], ". is a folder without a __main__.py: name the script in it"),
        (["-m", "missing"], "there is no module missing on sys.path"),
        (["-m", "below.missing"], "there is no module below.missing on sys.path"),
        (["-m", "missing.below"], "there is no module missing.below on sys.path"),
        ([], "the first argument must be the script, or -m and a module, and there is none"),
        (["-m"], "and there is none"),
        (["--steps", "3"], "not --steps"),
    ],
)
def test_a_missing_script_is_one_line_and_not_success(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    said: str,
) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", list(sys.path))
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("dadapt-dist run: ")
    assert said in shown.err.splitlines()[0]


def test_help_before_the_script_is_ours(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["--help"])
    assert stop.value.code == 0
    assert capsys.readouterr().out.startswith("usage: dadapt-dist run")


# ---------------------------------------------------------------- names


@pytest.mark.parametrize(
    ("error", "meant"),
    [
        (AttributeError("module 'torch.optim' has no attribute 'prodigy'"), "'Prodigy'"),
        (AttributeError("module 'torch.optim' has no attribute 'DAdaptAdamW'"), "'DAdaptAdam'"),
        (AssertionError("dadaptsgd is not a supported DeepSpeed Optimizer"), "'DAdaptSGD'"),
        (AssertionError("Prodgy is not a supported DeepSpeed Optimizer"), "'Prodigy'"),
        (AssertionError("Sophia is not a supported DeepSpeed Optimizer"), None),
        (AttributeError("'Engine' object has no attribute 'prodigy'"), None),
    ],
)
def test_a_name_near_one_of_ours_gets_a_hint(
    library_log: pytest.LogCaptureFixture, error: BaseException, meant: str | None
) -> None:
    _hint(error)
    assert len(library_log.messages) == (meant is not None)
    assert meant is None or f"did you mean {meant}" in library_log.messages[0]


JSON_ONLY = """
import sys
import torch, deepspeed

deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
config = {
    "train_micro_batch_size_per_gpu": 2,
    "gradient_clipping": 0.0,
    "optimizer": {"type": sys.argv[-1], "params": {"lr": 1.0}},
}
model = torch.nn.Linear(3, 2)
engine, *_ = deepspeed.initialize(model=model, model_parameters=model.parameters(), config=config)
for _ in range(3):
    engine.backward(engine(torch.ones(2, 3)).square().mean())
    engine.step()
with open(f"d-{engine.global_rank}", "w") as file:  # two ranks that print may write into each other's lines
    print(engine.basic_optimizer.d, float(engine.basic_optimizer.param_groups[0]["d"]), file=file)
"""


def test_an_unchanged_script_trains_from_its_json_under_torchrun(folder: Path) -> None:
    (folder / "train.py").write_text(JSON_ONLY)
    torchrun = ("-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone")
    done = call(folder, *torchrun, "-m", "dadapt_dist.run", "train.py", "Prodigy")
    assert done.returncode == 0, done.stderr
    found = [(folder / f"d-{rank}").read_text().split() for rank in range(2)]
    assert found[0] == found[1]
    assert float(found[0][0]) > 1e-6


def test_a_wrong_name_in_the_json_ends_with_a_hint_and_deepspeeds_error(folder: Path) -> None:
    (folder / "train.py").write_text(JSON_ONLY)
    one_rank = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}
    (folder / "alone.py").write_text(f"import os, runpy; os.environ.update({one_rank}); runpy.run_path('train.py')")
    done = call(folder, "-m", "dadapt_dist.run", "alone.py", "prodigy")
    assert done.returncode == 1
    assert "the optimizer type 'prodigy' is unknown; did you mean 'Prodigy'?" in done.stderr
    assert done.stderr.endswith("AssertionError: prodigy is not a supported DeepSpeed Optimizer\n")


def test_the_console_script_knows_the_frameworks_as_an_import_of_the_package_does(folder: Path) -> None:
    (folder / "names.py").write_text(
        "import torch\nassert torch.optim.Prodigy\nfrom dadapt_dist.sharding.registry import adapters\n"
        "print(*(adapter.name for adapter in adapters))"
    )
    done = call(folder, "-c", "from dadapt_dist_cli import main; main()", "run", "names.py")
    assert {"deepspeed", "accelerate", "lightning"} <= {*done.stdout.split()}, done.stderr
