"""`make release-check` sees each thing that would make a bad release, and reports all of them."""

import io
import os
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.helpers.release_check import release_check

ROOT = Path(__file__).parents[2]
METADATA = {
    "Metadata-Version": "2.4",
    "Name": "dadapt-dist",
    "Version": "1.2.3",
    "Summary": "s",
    "Author": "a",
    "Keywords": "k",
    "License-Expression": "MIT",
    "Requires-Python": ">=3.10",
    "Classifier": "Typing :: Typed",
    "Description-Content-Type": "text/markdown",
    **{f"Project-URL{i}": f"{name}, https://x.org/{i}" for i, name in enumerate(release_check.URLS)},
}
README = "# Title\n\n[a](https://x.org) [b](#title)\n\n```\n[c](of/code)\n```\n\n| a |\n|---|\n| b |\n"
CHANGELOG = "# Changelog\n\n## [Unreleased]\n\n## [1.2.3] - 2026-01-31\n\n- all\n"
FILES = {
    "dadapt_dist/__init__.py": '__version__ = "1.2.3"\n',
    "dadapt_dist/py.typed": "",
    "dadapt_dist/step.c": "",
    "lrfree/__init__.py": "",
    "lrfree/py.typed": "",
    "dadapt_dist_cli.py": "",
}
WANTED = ("tests/conftest.py", "tests/helpers/pool.py", "Makefile", "constraints.txt", "LICENSE", "pyproject.toml")
OTHERS = {
    **dict.fromkeys([*WANTED, "docs/index.md"], ""),
    "CHANGELOG.md": CHANGELOG,
    "CITATION.cff": "version: 1.2.3\n",
}
INFO = "dadapt_dist-1.2.3.dist-info"


class Tree:
    """A small tree and what was built from it, each part of which a test may spoil."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.metadata, self.readme = dict(METADATA), README
        self.tree = {**FILES, **OTHERS, ".ci/addresses.py": ""}
        self.wheel = {**FILES, f"{INFO}/entry_points.txt": "dadapt-dist = x", f"{INFO}/licenses/LICENSE": ""}
        self.sdist = dict(self.tree)

    def built(self) -> release_check.Release:
        for name, text in self.tree.items():
            path = self.folder / "tree" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        dist = self.folder / "dist"
        dist.mkdir()
        lines = [f"{name.rstrip('0123456789')}: {value}" for name, value in self.metadata.items()]
        fields = "\n".join(lines) + f"\n\n{self.readme}"
        with zipfile.ZipFile(dist / "dadapt_dist-1.2.3-py3-none-any.whl", "w") as archive:
            for name, text in {**self.wheel, f"{INFO}/METADATA": fields}.items():
                archive.writestr(name, text)
        with tarfile.open(dist / "dadapt_dist-1.2.3.tar.gz", "w:gz") as archive:
            for name, text in {**self.sdist, "PKG-INFO": self.sdist.get("PKG-INFO", fields)}.items():
                member = tarfile.TarInfo(f"dadapt_dist-1.2.3/{name}")
                member.size = len(text.encode())
                archive.addfile(member, io.BytesIO(text.encode()))
        return release_check.Release(self.folder / "tree", dist)


CHECKS = [name for name in release_check.CHECKS if name not in ("same wheel from both", "installs and answers")]


@pytest.mark.parametrize("name", CHECKS)
def test_a_good_release_passes(tmp_path: Path, name: str) -> None:
    assert [*release_check.CHECKS[name](Tree(tmp_path).built())] == []


def spoil(**changed: object) -> Callable[[Tree], None]:
    def work(tree: Tree) -> None:
        for name, value in changed.items():
            part = getattr(tree, name)
            setattr(tree, name, {**part, **value} if isinstance(value, dict) else value)

    return work


def without(part: str, name: str) -> Callable[[Tree], None]:
    return lambda tree: getattr(tree, part).pop(name)


UNRELEASED = CHANGELOG.replace("## [1.2.3]", "- new\n\n## [1.2.3]")


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("metadata", spoil(metadata={"Requires-Python": "three"}), "three"),
        ("metadata", spoil(sdist={"PKG-INFO": "Name: x\n"}), "other metadata than the wheel"),
        ("metadata", without("metadata", "Summary"), "there is no Summary"),
        ("classifiers", spoil(metadata={"Classifier": "Typing :: Typd"}), "'Typing :: Typd' is no classifier"),
        (
            "classifiers",
            spoil(metadata={"Classifier": "License :: OSI Approved :: MIT License"}),
            "License-Expression says it",
        ),
        ("README renders", spoil(metadata={"Description-Content-Type": "text/plain"}), "not text/markdown"),
        ("README renders", spoil(readme=README.replace("# ", "")), "no title"),
        ("README renders", spoil(readme=README.replace("| a |", "a")), "1 tables are written and 0 rendered"),
        ("README renders", spoil(readme=f"{README}\n<script>x</script>\n"), "<script> is stripped"),
        ("wheel", without("wheel", "lrfree/py.typed"), "lrfree/py.typed is missing"),
        ("wheel", without("wheel", "dadapt_dist/step.c"), "1 files are missing: dadapt_dist/step.c"),
        ("wheel", spoil(wheel={"tests/conftest.py": ""}), "it holds tests/conftest.py"),
        ("wheel", spoil(wheel={"dadapt_dist/__pycache__/a.pyc": ""}), "it holds dadapt_dist/__pycache__/a.pyc"),
        ("wheel", spoil(wheel={"setup.py": ""}), "it holds setup.py"),
        ("wheel", without("wheel", f"{INFO}/licenses/LICENSE"), "there is no LICENSE"),
        ("wheel", without("wheel", f"{INFO}/entry_points.txt"), "no command dadapt-dist"),
        ("source distribution", without("sdist", "Makefile"), "Makefile is missing"),
        ("source distribution", spoil(sdist={"dadapt_dist/__pycache__/a.pyc": ""}), "it holds dadapt_dist/__pycache__"),
        ("version", spoil(tree={"CHANGELOG.md": CHANGELOG.replace("1.2.3", "1.2.2")}), "begins with 1.2.2"),
        ("version", spoil(tree={"CHANGELOG.md": "# Changelog"}), "has no line like"),
        ("version", spoil(tree={"CITATION.cff": "version: 1.2.2"}), "CITATION.cff has version 1.2.2"),
        ("version", spoil(metadata={"Version": "1.2.4"}), "the wheel is of 1.2.4"),
        ("changelog", spoil(tree={"CHANGELOG.md": UNRELEASED}), "1 entries of CHANGELOG.md stand under Unreleased"),
        ("addresses", without("metadata", "Project-URL0"), "no project URLs Homepage: set DOCS_REPOSITORY"),
        ("addresses", spoil(metadata={"Project-URL0": "Homepage, http://x"}), "not begin with https://"),
        ("links", spoil(readme=f"{README}[c](docs/a.md) ![d](docs/b.png)"), "2 relative links in README.md: docs/a.md"),
    ],
)  # fmt: skip
def test_each_thing_that_is_wrong_is_named(
    tmp_path: Path, name: str, change: Callable[[Tree], None], said: str
) -> None:
    tree = Tree(tmp_path)
    change(tree)
    problems = [*release_check.CHECKS[name](tree.built())]
    assert len(problems) == 1, problems
    assert said in problems[0]


def test_what_is_not_under_version_control_is_named(tmp_path: Path) -> None:
    release = Tree(tmp_path).built()
    for command in (["init", "-q"], ["add", "--", "Makefile", "dadapt_dist"]):
        subprocess.run(["git", *command], cwd=release.root, check=True)
    (problem,) = release_check.CHECKS["source distribution"](release)
    assert "files are not under version control: .ci/addresses.py, CHANGELOG.md" in problem


def test_all_problems_are_reported_whatever_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("same wheel from both", "installs and answers"):
        monkeypatch.setitem(release_check.CHECKS, name, lambda release: iter(()))
    tree = Tree(tmp_path)
    tree.tree["CHANGELOG.md"] = UNRELEASED
    release = tree.built()
    release.wheel.unlink()
    marks = {line.split(":")[0].partition(" ")[2].strip(): mark for mark, line in release_check.results(release, True)}
    assert len(marks) == len(release_check.CHECKS)
    assert {name for name, mark in marks.items() if mark == "ok"} == {
        "source distribution",
        "same wheel from both",
        "installs and answers",
    }
    assert {name for name, mark in marks.items() if mark == "todo"} == {"changelog", "addresses", "links"}
    assert "FAIL" in [mark for mark, _ in release_check.results(release, False)]


@pytest.mark.matrix
def test_this_tree_would_make_a_release_but_for_what_its_maintainers_fill_in() -> None:
    line = [sys.executable, ROOT / ".ci" / "release_check.py", "--development"]
    env = {**os.environ, "DOCS_REPOSITORY": "https://code.example/p", "DOCS_URL": "https://docs.example/p"}
    done = subprocess.run(line, env=env, capture_output=True, text=True, timeout=250, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    marks = [row.split()[0] for row in done.stdout.splitlines()]
    assert len(marks) == 1 + len(release_check.CHECKS)
    assert marks.count("ok") >= len(release_check.CHECKS)  # all but the changelog, where something is unreleased
