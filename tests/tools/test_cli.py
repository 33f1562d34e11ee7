"""The command line answers for itself without torch."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args

import click
import pytest
from typer.main import get_command
from typer.testing import CliRunner, Result

import dadapt_dist
from dadapt_dist.monitor import plot
from dadapt_dist.tools.cli import app

PROGRAM = """
import sys, dadapt_dist_cli
sys.argv = ["dadapt-dist", *{arguments!r}]
try:
    dadapt_dist_cli.main()
finally:
    assert "torch" not in sys.modules, "torch is imported"
"""


def child(program: str) -> str:
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [
        (["--help"], "doctor"),
        (["--version"], dadapt_dist.__version__),
        (["run", "--help"], "SCRIPT_OR_MODULE"),
        (["demo", "--help"], "dadapt"),
        (["doctor", "--help"], "configs"),
        (["compare", "--help"], "untuned"),
        (["watch", "--help"], "held steps"),
        (["report", "--help"], "html page"),
        (["plot", "--help"], "several runs"),
        (["bench", "step", "--help"], "prodigy"),
    ],
)
def test_help_and_version_do_not_import_torch(arguments: list[str], shown: str) -> None:
    assert shown.lower() in child(PROGRAM.format(arguments=arguments)).lower()


def test_under_the_console_script_the_public_names_are_there_when_asked_for() -> None:
    child(
        "import sys, dadapt_dist_cli, dadapt_dist\n"
        "assert 'torch' not in sys.modules\n"
        "assert dadapt_dist.Prodigy.__name__ == 'Prodigy'\n"
        "assert set(dadapt_dist.__all__) <= {'__version__', *dadapt_dist._public.__all__}\n"
        "try:\n    dadapt_dist.NoSuchName\n"
        "except AttributeError:\n    pass\n"
        "else:\n    raise AssertionError\n"
    )


def test_a_script_that_imports_the_package_has_the_names_in_torch_optim() -> None:
    child("import dadapt_dist, torch\nassert torch.optim.Prodigy is dadapt_dist.Prodigy\n")


def test_importing_the_package_leaves_the_compiler_dtensors_and_plots_alone() -> None:
    heavy = ("torch._dynamo", "torch.distributed.tensor", "torch.distributed.fsdp", "sympy", "matplotlib")
    child(
        "import sys, torch\n"
        f"heavy = [name for name in {heavy!r} if name not in sys.modules]\n"
        "import dadapt_dist\n"
        "assert not [name for name in heavy if name in sys.modules], [n for n in heavy if n in sys.modules]\n"
    )


# ---------------------------------------------------------------- one way to end


def dadapt_dist_app(*words: str) -> Result:
    return CliRunner().invoke(app, words, env={"COLUMNS": "200"})


def commands() -> list[list[str]]:
    bench = ["step", "sync", "memory", "scale"]
    others = [
        "demo",
        "demo-grid",
        "doctor",
        "suite",
        "compare",
        "watch",
        "plot",
        "report",
        "refine-schedule",
        "universal",
    ]
    return [[], *([name] for name in others), *(["bench", name] for name in bench)]


@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_h_is_help_everywhere_and_every_option_shows_its_default(words: list[str]) -> None:
    short, long = (dadapt_dist_app(*words, flag) for flag in ("-h", "--help"))
    assert (short.exit_code, short.output) == (0, long.output)
    options = re.split(r"\n│ (?=--)", short.output)[1:]
    if words:
        silent = [one.split()[0] for one in options if "<bool>" not in one and "[default: " not in one]
        assert silent == []


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["demo", "--nproc", "0"], "'--nproc'"),
        (["demo", "--nprocs", "2"], "--nprocs"),
        (["demo", "--steps", "many"], "'--steps'"),
        (["dmo"], "dmo"),
        (["plot"], "logs"),
        (["plot", "."], ". holds no metrics.jsonl"),
        (["plot", "/dev/null"], "/dev/null is no regular file"),
        (["bench", "step", "--device", "tpu"], "--device tpu"),
        (["bench", "memory", "--params", "1"], "'--params'"),
        (["suite", "--jobs", "0"], "--jobs 0 must be at least 1"),
        (["demo", "--out", "/proc/none"], "/proc/none: No such file or directory"),
        (["demo-grid", "--out", "nowhere/a.json"], "--out nowhere/a.json: its folder is not there"),
    ],
)
def test_a_wrong_command_line_is_one_line(
    words: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = dadapt_dist_app(*words)
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert said in done.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (KeyboardInterrupt(), 130, "stopped by Ctrl-C\n"),
        (OSError(28, "No space left on device", "x.png"), 2, "error: x.png: No space left on device\n"),
        (PermissionError(13, "Permission denied", "a", None, "b"), 2, "error: a and b: Permission denied\n"),
        (ValueError("two\nlines \x1b[2J"), 2, "error: two lines \\x1b[2J\n"),
        (BrokenPipeError(32, "Broken pipe"), 1, ""),
    ],
)
def test_what_goes_wrong_in_a_command_is_one_line(
    error: BaseException, code: int, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(plot, "plot_runs", fails)
    done = dadapt_dist_app("plot", "x.jsonl", "--out", "x.png")
    assert (done.exit_code, done.stdout, done.stderr) == (code, "", said)


@pytest.mark.parametrize(
    "closed", ["import sys; sys.stdout = None", "import sys; sys.stdout.reconfigure(encoding='ascii')"]
)
def test_a_closed_output_and_one_without_the_letters_are_borne(closed: str, tmp_path: Path) -> None:
    log = tmp_path / "metrics.jsonl"
    log.write_text('{"step": 1, "loss": 3.0, "d": 1e-6}\n')
    child(
        f"{closed}\nfrom dadapt_dist.tools.cli import app\n"
        f"try:\n    app(['watch', '--once', {str(log)!r}])\nexcept SystemExit as end:\n    assert not end.code, end.code\n"
    )


def test_a_bug_is_no_bad_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plot, "plot_runs", lambda *_, **__: 1 / 0)
    assert isinstance(dadapt_dist_app("plot", "x.jsonl", "--out", "x.png").exception, ZeroDivisionError)


def completed(words: str) -> list[str]:
    """What the shell offers after these words, in a process without torch."""
    place = len(words.split()) - 1 + words.endswith(" ")
    env = f'_DADAPT_DIST_COMPLETE="complete_bash", COMP_WORDS="dadapt-dist {words}", COMP_CWORD="{place + 1}"'
    return child(f"import os\nos.environ.update({env})\n" + PROGRAM.format(arguments=[])).split()


def test_names_are_completed_without_torch() -> None:
    assert completed("demo --method mech") == ["mechanic-sgd", "mechanic-adam", "mechanic-lion"]
    assert completed("suite --variants none,auto-c") == ["none,auto-coef0.5"]


# Every option and argument that takes one of some names.
NAMED = {
    "demo": {"method": "prodigy", "sharding": "fsdp2+tp", "compare": "none,zero3", "size": "tiny"},
    "suite": {"tasks": "deep,iris", "variants": "all,auto"},
    "compare": {"task": "transformer", "method": "dadapt-adam", "tuned": "none", "schedule": "cosine"},
    "refine-schedule": {"norm": "l2"},
    "step": {
        "method": "dadapt_adam",
        "shape": "flat",
        "backend": "c,eager",
        "dtype": "bfloat16",
        "device": "cuda",
        "peers": "fused",
    },
    "memory": {"device": "cuda"},
}


@pytest.mark.parametrize(("command", "name"), [(command, name) for command in NAMED for name in NAMED[command]])
def test_every_option_that_takes_names_completes_and_lists_them(command: str, name: str) -> None:
    of_bench = ["bench", command] if command in ("step", "memory") else [command]
    group: Any = get_command(app)
    for word in of_bench:
        context = click.Context(group)
        group = group.get_command(context, word)
    (parameter,) = (one for one in group.params if one.name == name)
    wanted = NAMED[command][name]
    offered = [item.value for item in parameter.shell_complete(click.Context(group), wanted[:-1])]
    assert wanted in offered
    assert wanted.rpartition(",")[2] in " ".join(parameter.help.split()) or name == "tuned"


def test_the_names_are_those_of_the_commands() -> None:
    from dadapt_dist.kernels.dispatch import Backend
    from dadapt_dist.monitor.refine import KEYS
    from dadapt_dist.tools import choices
    from dadapt_dist.tools.compare import contenders
    from dadapt_dist.tools.demo import model, settings
    from dadapt_dist.tools.suite import catalogue, variants

    assert set(choices.SHARDINGS) == set(settings.SHARDINGS)
    assert set(choices.SIZES) == set(model.SIZES)
    assert tuple(catalogue.TASKS) == choices.TASKS
    assert len(catalogue.select(",".join(choices.TASK_GROUPS))) == len(catalogue.TASKS)
    assert tuple(variants.VARIANTS) == choices.VARIANTS
    assert set(choices.SCHEDULES) == set(contenders.SCHEDULE_NAMES)
    assert tuple(KEYS) == choices.NORMS
    assert get_args(Backend) == choices.BACKENDS
    known = {**contenders._of_torch(), **contenders._of_methods()}
    assert {name.replace("-", "_") for name in choices.optimizers()} <= set(known)


WITHOUT = """
import importlib.util
found = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name == "typer" else found(name, *rest)
"""


@pytest.mark.parametrize(
    ("arguments", "shown"), [(["--version"], dadapt_dist.__version__), (["-h"], "dadapt-dist[cli]")]
)
def test_without_typer_help_and_version_answer(arguments: list[str], shown: str) -> None:
    assert shown in child(WITHOUT + PROGRAM.format(arguments=arguments))


def test_without_typer_a_command_is_one_line_with_the_cure() -> None:
    program = WITHOUT + PROGRAM.format(arguments=["plot", "x"])
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=100, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: the command line needs typer: pip install 'dadapt-dist[cli]'\n"
