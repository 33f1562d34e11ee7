"""Check the rules that keep the package readable: no host syncs in a step, short files, no imports of tests."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "dadapt_dist"
FILES = {path.relative_to(ROOT).as_posix(): path for path in sorted(PACKAGE.rglob("*.py"))}
TREES = {name: ast.parse(path.read_text(encoding="utf-8"), name) for name, path in FILES.items()}

LONGEST_FILE = 450
# In these a value that travels to the host would stop the device once per parameter or per step.
STEP_PATH = ("dadapt_dist/methods/", "dadapt_dist/kernels/", "dadapt_dist/engine/optimizer.py")
HOST_SYNCS = {"item", "tolist", "cpu", "numpy"}
# A package that is not torch, the standard library or ours is imported only where it is used, inside a function.
OPTIONAL = {
    "accelerate",
    "deepspeed",
    "lightning",
    "matplotlib",
    "mpi4py",
    "numpy",
    "rich",
    "transformers",
    "triton",
    "typer",
}
FRONT_ENDS = (
    "dadapt_dist/tools/cli.py",
    "dadapt_dist/tools/terminal.py",
    "dadapt_dist/tools/reference_pages.py",
    "dadapt_dist/tools/demo/",
    "dadapt_dist/tools/bench/",
    "dadapt_dist/tools/suite/",
    "dadapt_dist/tools/compare/",
    "dadapt_dist/tools/doctor/cli.py",
    "dadapt_dist/integrations/",  # each is imported by its framework's users
    "dadapt_dist/kernels/triton_kernel.py",  # imported by gpu.py, when it is asked for
)


def imports(name: str, nodes: Iterator[ast.AST] | list[ast.stmt]) -> Iterator[tuple[int, str]]:
    """Line and absolute dotted name of everything imported by `nodes` of file `name`."""
    package = name.removesuffix(".py").split("/")[:-1]
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            yield from ((node.lineno, f"{module}.{alias.name}") for alias in node.names)


def calls(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Line and name of every call: `print` for print(), `.item` for x.item()."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            if isinstance(node.func, ast.Name):
                yield node.lineno, node.func.id
            elif isinstance(node.func, ast.Attribute):
                yield node.lineno, f".{node.func.attr}"


def found(unwanted: set[str], parts: tuple[str, ...] = ("dadapt_dist/",)) -> list[str]:
    return [
        f"{name}:{line} calls {call}()"
        for name, tree in TREES.items()
        if name.startswith(parts)
        for line, call in calls(tree)
        if call in unwanted
    ]


def imported_tests(name: str, tree: ast.AST) -> list[str]:
    """Imports of test files: what two of them share belongs into tests/helpers."""
    return [
        f"{name}:{line} imports {imported}"
        for line, imported in imports(name, ast.walk(tree))
        if imported.split(".")[0] == "tests" and any(part.startswith("test_") for part in imported.split("."))
    ]


def test_no_test_file_is_imported() -> None:
    files = [path for part in ("tests", "docs", "examples") for path in sorted((ROOT / part).rglob("*.py"))]
    trees = {path.relative_to(ROOT).as_posix(): ast.parse(path.read_text(encoding="utf-8")) for path in files}
    assert len(trees) > 100
    assert [line for name, tree in trees.items() for line in imported_tests(name, tree)] == []


@pytest.mark.parametrize(
    "source",
    [
        "from .test_other import train",
        "from . import test_other",
        "from tests.unit.engine.test_state_dict import same",
        "def f():\n    import tests.unit.test_schedules",
        "from ..engine import test_state_dict",
    ],
)
def test_an_import_of_a_test_file_is_seen(source: str) -> None:
    assert imported_tests("tests/unit/methods/test_new.py", ast.parse(source))
    assert imported_tests("tests/unit/methods/test_new.py", ast.parse("from tests.helpers.pool import test")) == []


def test_the_package_imports_no_test() -> None:
    wrong = [
        f"{name}:{line} imports {imported}"
        for name, tree in TREES.items()
        for line, imported in imports(name, ast.walk(tree))
        if imported.split(".")[0] == "tests"
    ]
    assert wrong == []


def test_the_step_path_never_waits_for_the_device() -> None:
    assert found({f".{name}" for name in HOST_SYNCS}, STEP_PATH) == []


def test_nothing_prints_or_stops_in_a_debugger() -> None:
    assert found({"print", "breakpoint", ".set_trace"}) == []


def test_no_script_that_stands_in_a_string_prints() -> None:
    """A child process is given its script as text, where no call can be seen."""
    texts = [
        f"{name}:{node.lineno}"
        for name, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and re.search(r"(?m)^\s*print\(", node.value)
    ]
    assert texts == []


def test_no_device_is_written_into_the_code() -> None:
    assert found({".cuda"}) == []


def test_no_except_catches_everything_unnamed() -> None:
    bare = [
        f"{name}:{node.lineno}"
        for name, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.ExceptHandler) and node.type is None
    ]
    assert bare == []


def test_optional_packages_are_imported_inside_functions() -> None:
    early = [
        f"{name}:{line} imports {imported}"
        for name, tree in TREES.items()
        if not name.startswith(FRONT_ENDS)
        for line, imported in imports(name, tree.body)
        if imported.split(".")[0] in OPTIONAL
    ]
    assert early == []


def test_every_file_says_first_which_question_it_answers() -> None:
    assert [name for name, tree in TREES.items() if not ast.get_docstring(tree)] == []


def test_no_file_is_longer_than_a_reader_takes_in_at_once() -> None:
    lengths = {name: len(path.read_text(encoding="utf-8").splitlines()) for name, path in FILES.items()}
    assert {name: lines for name, lines in lengths.items() if lines > LONGEST_FILE} == {}
