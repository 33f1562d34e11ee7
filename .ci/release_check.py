"""Would this tree make a good release? Builds it and checks what would be uploaded: `make release-check`.

One line for each check, all of them whatever fails; the exit status is 1 if any does. `--development` is for the time between
releases: what only a release needs (addresses, a changelog without unreleased entries) is shown as `todo` and does not fail.
"""

import argparse
import email
import os
import re
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import venv
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from email.message import Message
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
URLS = ("Homepage", "Documentation", "Source", "Changelog", "Issues")
ADDRESSES = "set DOCS_REPOSITORY and DOCS_URL to the public addresses when you build"
TYPED = ("dadapt_dist/py.typed", "lrfree/py.typed")
TOP = {"dadapt_dist", "dadapt_dist_cli.py", "lrfree"}
UNWANTED = re.compile(r"(^|/)(tests?|\.git|\.venv|__pycache__|shared)(/|$)|\.pyc$|\.env$")
STRIPPED = {"script", "style", "iframe", "object", "embed", "form", "input"}
MOST_NAMED = 5

Problems = Iterator[str]


@dataclass(frozen=True)
class Release:
    """root: the tree. dist: a folder with the source distribution and the wheel that was built from it."""

    root: Path
    dist: Path

    @property
    def wheel(self) -> Path:
        """The wheel; raises ValueError unless there is one."""
        return self._only("*.whl")

    @property
    def sdist(self) -> Path:
        """The source distribution; raises ValueError unless there is one."""
        return self._only("*.tar.gz")

    def _only(self, pattern: str) -> Path:
        found = [*self.dist.glob(pattern)]
        if len(found) != 1:
            raise ValueError(f"{len(found)} files {pattern} were built")
        return found[0]

    @property
    def metadata(self) -> Message:
        """The wheel's metadata."""
        return email.message_from_bytes(contents(self.wheel)[f"{self._info}/METADATA"])

    @property
    def _info(self) -> str:
        return "-".join(self.wheel.name.split("-")[:2]) + ".dist-info"

    @property
    def version(self) -> str:
        """As the package itself says it."""
        text = (self.root / "dadapt_dist" / "__init__.py").read_text(encoding="utf-8")
        return re.findall(r'^__version__ = "(.+)"$', text, re.MULTILINE)[0]


def contents(wheel: Path) -> dict[str, bytes]:
    """Files of a wheel by name."""
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def names_of(sdist: Path) -> list[str]:
    """Files of a source distribution, without the folder that holds them all."""
    with tarfile.open(sdist) as archive:
        return [member.name.partition("/")[2] for member in archive.getmembers() if member.isfile()]


# ---------------------------------------------------------------- checks: each yields what is wrong


def metadata_is_valid(release: Release) -> Problems:
    """The fields are as the packaging standards want them, and alike in both files."""
    from packaging.metadata import Metadata

    with tarfile.open(release.sdist) as archive:
        info = next(one for one in archive.getmembers() if one.name.count("/") == 1 and one.name.endswith("/PKG-INFO"))
        of_sdist = archive.extractfile(info).read()  # type: ignore[union-attr]
    of_wheel = next(text for name, text in contents(release.wheel).items() if name.endswith("/METADATA"))
    try:
        Metadata.from_email(of_wheel, validate=True)
    except Exception as error:  # noqa: BLE001 - a group of errors, which Python 3.10 does not know
        yield from map(str, getattr(error, "exceptions", [error]))
    if of_sdist != of_wheel:
        yield "the source distribution has other metadata than the wheel"
    for name in ("Summary", "Author", "Author-email", "License-Expression", "Requires-Python", "Keywords"):
        if name not in release.metadata and not (name.startswith("Author") and "Author" in release.metadata):
            yield f"there is no {name}"


def classifiers_are_known(release: Release) -> Problems:
    """An index knows each of them, and the licence stands in License-Expression alone."""
    from trove_classifiers import classifiers, deprecated_classifiers

    for given in release.metadata.get_all("Classifier", []):
        if given not in classifiers:
            yield f"{given!r} is no classifier"
        elif given in deprecated_classifiers:
            yield f"{given!r} is deprecated"
        elif given.startswith("License ::"):
            yield f"{given!r} must go: License-Expression says it"


def readme_renders(release: Release) -> Problems:
    """Markdown with a title, tables that are tables, and no element that an index strips."""
    from markdown_it import MarkdownIt

    if release.metadata["Description-Content-Type"] != "text/markdown":
        yield f"the content type of the description is {release.metadata['Description-Content-Type']}, not text/markdown"
    text = str(release.metadata.get_payload())
    html = MarkdownIt("commonmark").enable("table").render(text)
    if not re.search(r"<h1>.+?</h1>", html):
        yield "it has no title"
    tables = len(re.findall(r"^\|[ :|-]+\|$", text, re.MULTILINE))
    if html.count("<table>") != tables:
        yield f"{tables} tables are written and {html.count('<table>')} rendered"
    for tag in sorted(STRIPPED & set(re.findall(r"<(\w+)", html))):
        yield f"the element <{tag}> is stripped"


def links_are_absolute(release: Release) -> Problems:
    """Every link of README.md leads out of the repository: relative ones are dead on an index."""
    text = re.sub(r"^```.*?^```$", "", str(release.metadata.get_payload()), flags=re.MULTILINE | re.DOTALL)
    left = [target for target in re.findall(r"\]\(([^)\s]+)\)", text) if not re.match(r"\w+:|#", target)]
    if left:
        yield f"{len(left)} relative links in README.md: {listed(left)}; {ADDRESSES}"


def addresses_are_there(release: Release) -> Problems:
    """All project URLs are there, with https://."""
    given = dict(one.split(", ", 1) for one in release.metadata.get_all("Project-URL", []))
    missing = [name for name in URLS if name not in given]
    if missing:
        yield f"there are no project URLs {', '.join(missing)}: {ADDRESSES}"
    for name, address in given.items():
        if not address.startswith("https://"):
            yield f"{name} is {address}, which does not begin with https://"


def version_is_that_of_the_changelog(release: Release) -> Problems:
    """CHANGELOG.md, CITATION.cff, the package and the wheel have one version."""
    text = (release.root / "CHANGELOG.md").read_text(encoding="utf-8")
    top = re.search(r"^## \[(\d[^\]]*)\] - (\S+)$", text, re.MULTILINE)
    if top is None:
        yield "CHANGELOG.md has no line like ## [0.1.0] - 2026-01-31"
    elif top[1] != release.version:
        yield f"CHANGELOG.md begins with {top[1]}, and dadapt_dist.__version__ is {release.version}"
    if release.metadata["Version"] != release.version:
        yield f"the wheel is of {release.metadata['Version']}, and dadapt_dist.__version__ is {release.version}"
    cited = re.search(r"^version: (\S+)$", (release.root / "CITATION.cff").read_text(encoding="utf-8"), re.MULTILINE)
    if cited and cited[1].strip("\"'") != release.version:
        yield f"CITATION.cff has version {cited[1]}, and dadapt_dist.__version__ is {release.version}"


def nothing_is_unreleased(release: Release) -> Problems:
    """No entry stands under Unreleased."""
    text = (release.root / "CHANGELOG.md").read_text(encoding="utf-8")
    section = re.search(r"^## \[Unreleased\]\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    entries = re.findall(r"^- ", section[1], re.MULTILINE) if section else []
    if entries:
        yield f"{len(entries)} entries of CHANGELOG.md stand under Unreleased: give them the version, and raise __version__"


def wheel_is_whole(release: Release) -> Problems:
    """It has every module, LICENSE and the markers of types, no tests and no caches."""
    names = {name for name in contents(release.wheel) if ".dist-info/" not in name}
    info = {name.partition("/")[2] for name in contents(release.wheel)} - {""}
    yield from (f"{name} is missing" for name in TYPED if name not in names)
    sources = {
        p.relative_to(release.root).as_posix() for top in ("dadapt_dist", "lrfree") for p in sources_of(release, top)
    }
    lost = sorted(sources - names)
    if lost:
        yield f"{len(lost)} files are missing: {listed(lost)}"
    wrong = sorted(name for name in names if UNWANTED.search(name)) or sorted({n.split("/")[0] for n in names} - TOP)
    if wrong:
        yield f"it holds {listed(wrong)}"
    if not any(name.endswith("LICENSE") for name in info):
        yield "there is no LICENSE"
    if b"dadapt-dist = " not in contents(release.wheel).get(f"{release._info}/entry_points.txt", b""):
        yield "there is no command dadapt-dist"


def sources_of(release: Release, top: str) -> Iterator[Path]:
    """What a folder of the package has that must be shipped."""
    for path in (release.root / top).rglob("*"):
        if path.suffix in (".py", ".pyi", ".c", ".h") and "__pycache__" not in path.parts:
            yield path


def sdist_is_whole(release: Release) -> Problems:
    """It has what its tests need, and nothing that is not under version control."""
    names = names_of(release.sdist)
    wanted = {"tests/conftest.py", "tests/helpers/pool.py", "Makefile", "constraints.txt", "LICENSE", "pyproject.toml"}
    yield from (
        f"{name} is missing" for name in sorted(wanted | {".ci/addresses.py", "docs/index.md"}) if name not in names
    )
    wrong = [name for name in names if "cache" in name.lower() and UNWANTED.search(name.replace("tests/", ""))]
    if wrong:
        yield f"it holds {listed(wrong)}"
    git = subprocess.run(["git", "ls-files", "-z"], cwd=release.root, capture_output=True, check=False)
    if git.returncode == 0 and git.stdout:
        strange = sorted(set(names) - set(os.fsdecode(git.stdout).split("\0")) - {"PKG-INFO"})
        if strange:
            yield f"{len(strange)} files are not under version control: {listed(strange)}"


def sdist_makes_the_same_wheel(release: Release) -> Problems:
    """The source distribution and the tree make the same wheel."""
    with tempfile.TemporaryDirectory() as folder:
        run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, release.root)
        (other,) = Path(folder).glob("*.whl")
        one, two = contents(release.wheel), contents(other)
    differ = sorted(name for name in one.keys() | two.keys() if one.get(name) != two.get(name))
    if differ:
        yield f"{len(differ)} files differ: {listed(differ)}"


def wheel_works_alone(release: Release) -> Problems:
    """In an empty environment the command answers; with torch lent to it, the package imports."""
    with tempfile.TemporaryDirectory() as folder:
        venv.create(folder, with_pip=False, symlinks=os.name != "nt")
        pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", folder)
        run(*pip, "install", "--quiet", "--no-deps", "--no-index", release.wheel)
        programs = Path(folder) / ("Scripts" if os.name == "nt" else "bin")
        said = run(programs / "dadapt-dist", "--version", cwd=folder).strip()
        if said != release.version:
            yield f"dadapt-dist --version says {said}, not {release.version}"
        program = "import dadapt_dist, lrfree; print(dadapt_dist.__version__, dadapt_dist.Prodigy.__module__)"
        lent = {"PYTHONPATH": sysconfig.get_paths()["purelib"]}
        said = run(programs / "python", "-W", "error", "-c", program, cwd=folder, **lent).strip()
        if said.split()[0] != release.version:
            yield f"import dadapt_dist gives {said}, not {release.version}"


CHECKS: dict[str, Callable[[Release], Problems]] = {
    "metadata": metadata_is_valid,
    "classifiers": classifiers_are_known,
    "README renders": readme_renders,
    "wheel": wheel_is_whole,
    "source distribution": sdist_is_whole,
    "same wheel from both": sdist_makes_the_same_wheel,
    "installs and answers": wheel_works_alone,
    "version": version_is_that_of_the_changelog,
    "changelog": nothing_is_unreleased,
    "addresses": addresses_are_there,
    "links": links_are_absolute,
}
ONLY_A_RELEASE = ("changelog", "addresses", "links")


# ---------------------------------------------------------------- running them


def listed(names: list[str]) -> str:
    """The first of some names."""
    shown = ", ".join(names[:MOST_NAMED])
    return shown if len(names) <= MOST_NAMED else f"{shown} and {len(names) - MOST_NAMED} more"


def run(*command: str | Path, cwd: str | Path | None = None, **environment: str) -> str:
    """Standard output of a command. Raises ValueError, with the last line that it said, where it fails."""
    words = [str(word) for word in command]
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | environment
    done = subprocess.run(words, capture_output=True, text=True, cwd=cwd, env=env, check=False)
    if done.returncode:
        said = (done.stderr.strip() or done.stdout.strip() or "nothing").splitlines()[-1]
        raise ValueError(f"{' '.join(words[:4])} ... ended with {done.returncode}: {said}")
    return done.stdout


def results(release: Release, development: bool) -> Iterator[tuple[str, str]]:
    """("ok", "todo" or "FAIL", a line) for each check."""
    for name, check in CHECKS.items():
        try:
            problems = [*check(release)]
        except (ValueError, OSError, KeyError, StopIteration) as error:
            problems = [f"cannot be checked: {error}"]
        mark = "ok" if not problems else "todo" if development and name in ONLY_A_RELEASE else "FAIL"
        said = "; ".join(problems) or (check.__doc__ or name).splitlines()[0]
        yield mark, f"{mark:<5} {name}: {' '.join(said.split())}"


def main(arguments: list[str] | None = None) -> int:
    """Build, check, say; returns the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--development", action="store_true", help="what only a release needs does not fail")
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        release = Release(ROOT, Path(folder))
        failed = False
        try:
            run(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, ROOT)
            sys.stdout.write(f"ok    build: {release.sdist.name}, {release.wheel.name}\n")
        except ValueError as error:
            failed = True
            sys.stdout.write(f"FAIL  build: {error}\n")
        for mark, line in results(release, given.development):
            failed |= mark == "FAIL"
            sys.stdout.write(f"{line}\n")
            sys.stdout.flush()
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
