"""The command line answers for itself without torch."""

import subprocess
import sys

import pytest

import dadapt_dist

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
