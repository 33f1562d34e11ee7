"""The examples in docstrings run and give what they show."""

import doctest
import importlib
from pathlib import Path

import pytest

import dadapt_dist
from dadapt_dist.methods import METHODS
from dadapt_dist.methods.registry import class_name

PACKAGE = Path(dadapt_dist.__file__).parent
WITH_EXAMPLES = [path for path in sorted(PACKAGE.rglob("*.py")) if ">>> " in path.read_text()]


def _name(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")


@pytest.mark.parametrize("name", [*map(_name, WITH_EXAMPLES)])
def test_examples_run(name: str) -> None:
    failed, _ = doctest.testmod(importlib.import_module(name), optionflags=doctest.ELLIPSIS)
    assert failed == 0


@pytest.mark.parametrize("name", [*map(class_name, METHODS.values())])
def test_every_public_class_has_an_example_that_runs(name: str) -> None:
    (example,) = doctest.DocTestFinder(recurse=False).find(getattr(dadapt_dist, name), name, module=False, globs={})
    assert example.examples
    assert doctest.DocTestRunner().run(example).failed == 0
