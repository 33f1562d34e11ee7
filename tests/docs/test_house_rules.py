"""Do the files of the package keep the rules that make it readable: who imports whom, no host syncs, short files?"""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "dadapt_dist"
FILES = {path.relative_to(ROOT).as_posix(): path for path in sorted(PACKAGE.rglob("*.py"))}
TREES = {name: ast.parse(path.read_text(encoding="utf-8"), name) for name, path in FILES.items()}

LONGEST_FILE = 300
# In these a value that travels to the host would stop the device once per parameter or per step.
STEP_PATH = ("dadapt_dist/methods/", "dadapt_dist/kernels/", "dadapt_dist/engine/optimizer.py")
HOST_SYNCS = {"item", "tolist", "cpu", "numpy"}
# part of the package -> what it must not know. Methods are tensor mathematics; adapters know frameworks, never methods.
FORBIDDEN = {
    "dadapt_dist/methods/": ("torch.distributed", "dadapt_dist"),
    "dadapt_dist/adapters/": (
        "dadapt_dist.methods",
        "dadapt_dist.engine.optimizer",
        "dadapt_dist.kernels",
        "dadapt_dist.engine.step_size",
    ),
    "dadapt_dist/kernels/": (
        "torch.distributed",
        "dadapt_dist.sharding.registry",
        "dadapt_dist.comm.communicator",
        "dadapt_dist.engine.optimizer",
    ),
    "dadapt_dist/": ("tests",),
}
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
    "dadapt_dist/demo/",
    "dadapt_dist/bench/",
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


def is_within(imported: str, prefix: str) -> bool:
    return imported == prefix or imported.startswith(f"{prefix}.")


def broken_directions(name: str, tree: ast.AST) -> list[str]:
    return [
        f"{name}:{line} imports {imported}"
        for part, prefixes in FORBIDDEN.items()
        if name.startswith(part)
        for line, imported in imports(name, ast.walk(tree))
        if any(is_within(imported, prefix) for prefix in prefixes)
        if not is_within(imported, part.rstrip("/").replace("/", ".")) or part == "dadapt_dist/"
    ]


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


def test_methods_know_no_ranks_adapters_know_no_methods_and_kernels_know_no_frameworks() -> None:
    assert [line for name, tree in TREES.items() for line in broken_directions(name, tree)] == []


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("dadapt_dist/methods/new.py", "import torch.distributed as dist"),
        ("dadapt_dist/methods/new.py", "from torch import distributed"),
        ("dadapt_dist/methods/new.py", "from ..adapters.base import Placement"),
        ("dadapt_dist/methods/new.py", "def f():\n    from .. import optimizer"),
        ("dadapt_dist/adapters/new.py", "from dadapt_dist.methods import Method"),
        ("dadapt_dist/adapters/new.py", "from ..optimizer import LearningRateFree"),
        ("dadapt_dist/kernels/new.py", "from .. import adapters"),
        ("dadapt_dist/new.py", "from tests.helpers.pool import WorkerPool"),
    ],
)
def test_an_import_against_the_direction_is_seen(name: str, source: str) -> None:
    assert broken_directions(name, ast.parse(source))


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("dadapt_dist/methods/new.py", "from .base import Method"),
        ("dadapt_dist/adapters/new.py", "from torch.distributed.tensor import DTensor\nfrom .base import Placement"),
        ("dadapt_dist/kernels/new.py", "from ..methods.base import Method"),
        ("dadapt_dist/engine/optimizer.py", "from .methods import METHODS"),
    ],
)
def test_an_import_along_the_direction_passes(name: str, source: str) -> None:
    assert broken_directions(name, ast.parse(source)) == []


def test_the_step_path_never_waits_for_the_device() -> None:
    assert found({f".{name}" for name in HOST_SYNCS}, STEP_PATH) == []


def test_nothing_prints_or_stops_in_a_debugger() -> None:
    assert found({"print", "breakpoint", ".set_trace"}) == []


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
