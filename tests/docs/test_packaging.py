"""Check that what gets published is complete, and installs and imports in a fresh environment."""

import email
import os
import re
import runpy
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from email.message import Message
from pathlib import Path

import pytest

import dadapt_dist
from tests.helpers.release_check import release_check

ROOT = Path(__file__).parents[2]
ADDRESSES = {"DOCS_REPOSITORY": "https://code.example/dadapt-dist", "DOCS_URL": "https://docs.example/dadapt-dist/"}
EXTRAS = {
    "cli",
    "demo",
    "docs",
    "suite",
    "accelerate",
    "deepspeed",
    "trainer",
    "lightning",
    "mpi",
    "test",
    "dev",
    "all",
}


def run(*command: str | Path, cwd: Path | None = None, **environment: str) -> str:
    """Standard output of a command; its error output is in the failure."""
    words = [str(part) for part in command]
    done = subprocess.run(
        words, capture_output=True, text=True, timeout=100, cwd=cwd, env={**os.environ, **environment}
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the source distribution and the wheel that was built from it, not from the working tree."""
    folder = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, ROOT, **ADDRESSES)
    return folder


@pytest.fixture(scope="module")
def wheel(dist: Path) -> Path:
    (wheel,) = dist.glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def metadata(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        return email.message_from_string(archive.read(name).decode())


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A new environment that holds the wheel alone; torch is lent to it by `lent`."""
    folder = tmp_path_factory.mktemp("venv")
    venv.create(folder, with_pip=False, symlinks=True)
    run(sys.executable, "-m", "pip", "--python", folder, "install", "--quiet", "--no-deps", "--no-index", wheel)
    return folder


def lent() -> str:
    """This environment's packages; an editable install does not show through, because .pth files are not read here."""
    return sysconfig.get_paths()["purelib"]


def test_the_wheel_holds_every_module_and_the_type_marker_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
        texts = [name for name in archive.namelist() if name.endswith("licenses/LICENSE")]
    sources = [
        *(ROOT / "dadapt_dist").rglob("*.py"),
        *(ROOT / "lrfree").rglob("*.py"),
        *(ROOT / "lrfree").rglob("*.pyi"),
    ]
    assert names >= {path.relative_to(ROOT).as_posix() for path in sources}
    source = {"dadapt_dist/kernels/cpu_c_step.c", "dadapt_dist/kernels/cpu_c_method.h"}
    assert {"dadapt_dist/py.typed", "lrfree/py.typed", *source} <= names
    assert {name.split("/")[0] for name in names} == {"dadapt_dist", "dadapt_dist_cli.py", "lrfree"}
    assert not [name for name in names if "__pycache__" in name or name.endswith(".pyc")]
    assert len(texts) == 1


def test_the_source_distribution_holds_what_its_tests_need_and_no_caches(dist: Path) -> None:
    (path,) = dist.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        names = {name.split("/", 1)[1] for name in archive.getnames()}
    wanted = {"tests/helpers/pool.py", "tests/conftest.py", "Makefile", "constraints.txt", "LICENSE", "pyproject.toml"}
    assert names >= wanted | {"configs/deepspeed/zero3-bf16.json", "lrfree/__init__.py", "lrfree/optimizers.pyi"}
    assert not [name for name in names if "cache/" in name or "cache__" in name or name.startswith((".venv", "shared"))]


def test_the_release_check_finds_nothing_wrong_with_what_was_built(dist: Path) -> None:
    release = release_check.Release(ROOT, dist)
    slow_or_later = {"same wheel from both", "installs and answers", "source distribution", "changelog"}
    for name in {*release_check.CHECKS} - slow_or_later:
        assert [*release_check.CHECKS[name](release)] == [], name


def test_the_version_is_written_in_one_place(metadata: Message) -> None:
    assert metadata["Version"] == dadapt_dist.__version__
    written = re.escape(f'"{dadapt_dist.__version__}"')
    assert not re.search(rf"^version\s*=\s*{written}", (ROOT / "pyproject.toml").read_text(), re.MULTILINE)


def test_metadata_name_license_python_extras_and_only_torch_is_required(metadata: Message) -> None:
    assert metadata["Name"] == "dadapt-dist"
    assert metadata["License-Expression"] == "MIT"
    assert metadata["Requires-Python"] == ">=3.10"
    assert set(metadata.get_all("Provides-Extra", [])) == EXTRAS
    required = [line for line in metadata.get_all("Requires-Dist", []) if "extra ==" not in line]
    assert sorted(re.split(r"[><=]", line)[0] for line in required) == ["torch", "typing-extensions"]


def test_a_release_has_project_urls_and_a_readme_whose_links_lead_somewhere(metadata: Message) -> None:
    urls = dict(line.split(", ", 1) for line in metadata.get_all("Project-URL", []))
    source, docs = (address.rstrip("/") for address in ADDRESSES.values())
    assert urls["Source"] == source
    assert urls["Homepage"] == urls["Documentation"] == docs
    assert urls["Changelog"] == f"{source}/blob/main/CHANGELOG.md"
    assert metadata["Description-Content-Type"] == "text/markdown"
    text = re.sub(r"^```.*?^```$", "", str(metadata.get_payload()), flags=re.MULTILINE | re.DOTALL)
    targets = re.findall(r"\]\(([^)\s]+)\)", text)
    assert [target for target in targets if not target.startswith(("https://", "#"))] == []
    assert f"{docs}/quality.html" in targets
    assert f"{source}/tree/main/launch" in targets
    for target in targets:  # each is a file here
        path = target.partition("#")[0]
        if path.startswith(docs):
            page = "docs" + path.removeprefix(docs)
            assert (ROOT / re.sub(r"\.html$", ".md", page)).is_file(), target
        elif path.startswith(source):
            assert (ROOT / path.removeprefix(source).split("/main/")[1]).exists(), target


def test_without_addresses_the_readme_stays_and_wrong_ones_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    addresses = runpy.run_path(str(ROOT / ".ci/addresses.py"))
    readme = (ROOT / "README.md").read_text()
    assert addresses["absolute"](readme, "", "") == readme
    assert addresses["urls"]("", "") == {}
    for wrong in ("docs.example", "https://docs.example/a?b=1#c", 'https://docs.example/a"b>', "https:///a"):
        monkeypatch.setenv("DOCS_URL", wrong)
        with pytest.raises(ValueError, match=re.escape(f"DOCS_URL={wrong!r} must be https://, a host and a path")):
            addresses["address"]("DOCS_URL")


def test_the_installed_wheel_imports_without_a_warning_and_without_optional_packages(installed: Path) -> None:
    program = (
        "import sys, dadapt_dist, lrfree.optimizers; print(dadapt_dist.__file__); assert lrfree.Prodigy;"
        "optional = 'typer rich matplotlib accelerate deepspeed transformers lightning pytorch_lightning mpi4py';"
        "print(set(optional.split()) & set(sys.modules))"
    )
    # Not from the repository: `python -c` imports from the current folder first.
    command = (installed / "bin" / "python", "-W", "error", "-c", program)
    place, optional = run(*command, cwd=installed, PYTHONPATH=lent()).splitlines()
    assert Path(place).is_relative_to(installed)
    assert optional == "set()"


def test_the_console_script_answers_help(installed: Path) -> None:
    assert "demo" in run(installed / "bin" / "dadapt-dist", "--help", PYTHONPATH=lent(), COLUMNS="100")
