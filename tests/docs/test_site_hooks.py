"""Pages become sources of the site: links that leave docs/, names of files, marks of code blocks, sections of README.md."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def hooks() -> ModuleType:
    spec = importlib.util.spec_from_file_location("site_hooks", ROOT / "docs/site_hooks.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("page", "source", "becomes"),
    [
        ("state.md", "[a](methods.md#memory)", "[a](methods.md#memory)"),
        ("state.md", "[kernels.md](kernels.md)", "[How a step runs](kernels.md)"),
        ("state.md", "[methods.md](methods.md#memory)", "[Memory](methods.md#memory)"),
        (
            "state.md",
            "[x.md](reference/prodigy.md#dadapt_dist.Prodigy)",
            "[Prodigy](reference/prodigy.md#dadapt_dist.Prodigy)",
        ),
        ("tutorials/fsdp2.md", "[docs/layouts.md](../layouts.md)", "[Layouts](../layouts.md)"),
        ("state.md", "[x](../Makefile)", "[x](https://code.example/blob/main/Makefile)"),
        ("tutorials/fsdp2.md", "[`x`](../../launch)", "[`x`](https://code.example/tree/main/launch)"),
        ("state.md", "[x](compare_checkouts.py)", "[x](https://code.example/blob/main/docs/compare_checkouts.py)"),
        ("state.md", "[x](https://arxiv.org/abs/1)", "[x](https://arxiv.org/abs/1)"),
        ("state.md", "![x](quality-deep.png)", "![x](quality-deep.png)"),
        ("state.md", "```\n[x](../Makefile)\n```", "```\n[x](../Makefile)\n```"),
        ("state.md", "```python ranks=2\nx\n```", "```python\nx\n```"),
    ],
)
def test_links_and_marks_are_rewritten(hooks: ModuleType, page: str, source: str, becomes: str) -> None:
    assert hooks.rewritten(source, page, "https://code.example/") == becomes


def test_without_a_repository_links_to_its_files_are_text(hooks: ModuleType) -> None:
    assert hooks.rewritten("see [`x`](../Makefile).", "state.md") == "see `x`."


def test_a_section_of_the_readme_has_its_links_as_seen_from_the_page(hooks: ModuleType) -> None:
    text = hooks.rewritten("before\n\n<!-- README: Use -->\n", "tutorials/x.md")
    assert "from dadapt_dist import Prodigy" in text
    assert "](../quality.md)" in text
    assert "## " not in text
    with pytest.raises(ValueError, match=r"README\.md has no heading 'Nothing'"):
        hooks.rewritten("<!-- README: Nothing -->", "index.md")
