"""Old import paths give the very modules that have moved, with a warning, and cost nothing unless they are used."""

import importlib
import importlib.resources
import importlib.util
import pickle
import subprocess
import sys
import warnings

import pytest

import dadapt_dist
from dadapt_dist._moved_paths import GONE_IN, MOVED

MODULES_BECOME_PACKAGES = {"adapters"}
NEEDS = {"kernels.triton_step": "triton"}


@pytest.fixture(autouse=True)
def _forget_old_paths() -> None:
    for old in MOVED:
        sys.modules.pop(f"dadapt_dist.{old}", None)


def import_old(old: str) -> tuple[object, list[str]]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        module = importlib.import_module(f"dadapt_dist.{old}")
    return module, [str(one.message) for one in caught if one.category is DeprecationWarning]


@pytest.mark.parametrize("old", MOVED)
def test_an_old_path_is_the_same_module_and_warns_once(old: str) -> None:
    if old in NEEDS:
        pytest.importorskip(NEEDS[old])
    new = importlib.import_module(f"dadapt_dist.{MOVED[old]}")
    module, told = import_old(old)
    named = [line for line in told if line.startswith(f"dadapt_dist.{old} ")]
    assert len(named) == 1
    assert f"dadapt_dist.{MOVED[old]};" in named[0]
    assert GONE_IN in named[0]
    if old in MODULES_BECOME_PACKAGES:
        assert all(getattr(module, name) is getattr(new, name) for name in ("register", "adapters"))
    else:
        assert module is new
        assert new.__spec__ is not None
        assert new.__spec__.name == f"dadapt_dist.{MOVED[old]}"
    assert import_old(old) == (module, [])


def test_every_target_exists_and_no_old_path_hides_a_module_of_today() -> None:
    for old, new in MOVED.items():
        assert importlib.util.find_spec(f"dadapt_dist.{new}") is not None, new
        folder = "/".join(old.split("."))
        assert not any(
            importlib.resources.files(dadapt_dist).joinpath(folder + end).is_file() for end in (".py", "/__init__.py")
        )


def test_a_pickle_of_the_old_tree_loads_the_classes_of_today() -> None:
    saved = [b"cdadapt_dist.api\nProdigy\n.", b"cdadapt_dist.step_size\nStepSize\n."]
    for text, wanted in zip(saved, (dadapt_dist.Prodigy, dadapt_dist.StepSize), strict=True):
        with pytest.warns(DeprecationWarning, match="has moved to"):
            assert pickle.loads(text) is wanted


def test_the_warning_points_to_the_line_that_imports() -> None:
    with pytest.warns(DeprecationWarning, match="dadapt_dist.api has moved") as caught:
        import dadapt_dist.api  # noqa: F401
    assert caught[0].filename == __file__


def test_a_fresh_process_uses_no_old_path_and_the_aliases_that_stay_do_not_warn() -> None:
    program = (
        "import sys, dadapt_dist, dadapt_dist.mpi, dadapt_dist.run, dadapt_dist.universal, dadapt_dist.checkpoint\n"
        "from dadapt_dist._moved_paths import MOVED\n"
        "assert not [old for old in MOVED if f'dadapt_dist.{old}' in sys.modules]\n"
        "try:\n    import dadapt_dist.nothing_here\n"
        "except ModuleNotFoundError as error:\n    print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "dadapt_dist.nothing_here" in done.stdout
