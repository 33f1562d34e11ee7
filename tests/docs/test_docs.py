"""Check the pages: their code runs, links resolve, and every public name and option is documented."""

import logging
import os
import re
import shutil
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from inspect import signature
from pathlib import Path
from typing import Any

import pytest
import torch.distributed as dist

import dadapt_dist as dd
from dadapt_dist import monitor, optimizers, schedules
from dadapt_dist.methods import METHODS
from dadapt_dist.methods.registry import class_name
from tests.helpers.layouts import LAYOUTS
from tests.helpers.registered import registrations_undone

ROOT = Path(__file__).parents[2]
ADVICE = "dadapt_dist.engine.diagnostics.advice"
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
TEXTS = {page.relative_to(ROOT).as_posix(): page.read_text() for page in PAGES}
FENCE = re.compile(r"^(?P<indent> *)```python(?P<info>[^\n]*)\n(?P<code>.*?)^ *```$", re.MULTILINE | re.DOTALL)
FILE = re.compile(r'^```json title="(?P<name>[\w.-]+)"\n(?P<text>.*?)^```$', re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[[^\]]*\]\((?P<target>[^)\s]+)\)")


@dataclass(frozen=True)
class Block:
    """A python block of a page. line: of its first code line; ranks: 0 for one process without a group."""

    page: str
    line: int
    info: str
    code: str

    @property
    def ranks(self) -> int:
        found = re.fullmatch(r"ranks=(\d+)", self.info)
        return int(found[1]) if found else 0


def blocks(page: str) -> Iterator[Block]:
    text = TEXTS[page]
    for found in FENCE.finditer(text):
        line = text[: found.start("code")].count("\n")
        yield Block(page, line, found["info"].strip(), textwrap.dedent(found["code"]))


def write_files(page: str, folder: Path) -> list[Path]:
    """Write the files that a page shows with their names, ```json title="ds.json", where its code looks for them."""
    found = [(folder / file["name"], file["text"]) for file in FILE.finditer(TEXTS[page])]
    for path, text in found:
        path.write_text(text, encoding="utf-8")
    return [path for path, _ in found]


def execute(block: Block, namespace: dict[str, Any]) -> None:
    """Run a block so that a traceback names its page and line."""
    exec(compile("\n" * block.line + block.code, block.page, "exec"), namespace)


def execute_on_a_rank(block: Block, folder: str) -> bool:
    before = os.getcwd()
    os.chdir(folder)
    try:
        execute(block, {"__name__": "page"})
        dist.barrier()
    finally:
        os.chdir(before)
    return True


# PEFT asks transformers for something by its older name.
@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")
@pytest.mark.parametrize("page", TEXTS)
def test_the_code_of_a_page_runs(
    page: str, pools: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, library_log: pytest.LogCaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    library_log.set_level(logging.DEBUG, logger=ADVICE)  # a page turns it off; the fixture restores it
    write_files(page, tmp_path)
    namespace: dict[str, Any] = {"__name__": "page"}
    with registrations_undone():
        for block in blocks(page):
            if block.info.startswith("no-run"):
                continue
            if block.ranks:
                assert pools(block.ranks).run(execute_on_a_rank, block, str(tmp_path)) == [True] * block.ranks
            else:
                execute(block, namespace)
    warned = [record for record in library_log.records if record.name == ADVICE and record.levelno >= logging.WARNING]
    assert [record.getMessage() for record in warned] == []


def test_the_script_for_a_cluster_goes_on_from_its_checkpoint(pools: Any, tmp_path: Path) -> None:
    """It ends with the loss of a run that was left alone, and its log has each step once."""
    (block,) = blocks("docs/tutorials/cluster.md")
    pools(2).run(execute_on_a_rank, block, str(tmp_path))
    log, newest = tmp_path / "run" / "metrics.jsonl", tmp_path / "run" / "step-00000080"
    alone = monitor.read_jsonl(log)
    shutil.rmtree(newest)
    pools(2).run(execute_on_a_rank, block, str(tmp_path))
    assert newest.is_dir()
    assert monitor.read_jsonl(log) == alone
    assert [record["step"] for record in alone] == list(range(80))


def test_the_slurm_script_of_the_page_is_the_file_of_the_repository() -> None:
    (shown,) = re.findall(r"^```bash\n(.*?)^```$", TEXTS["docs/tutorials/cluster.md"], re.MULTILINE | re.DOTALL)
    assert shown == (ROOT / "launch/slurm-torchrun.sbatch").read_text()


def test_the_quick_start_learns_and_shows_what_the_page_says(capsys: pytest.CaptureFixture[str]) -> None:
    """The first thing that anybody runs: its loss falls by a factor above a hundred, and d grows from d0, with lr 1.0."""
    block = next(iter(blocks("README.md")))
    namespace: dict[str, Any] = {"__name__": "page"}
    execute(block, namespace)
    line = re.compile(r"step +(\d+)   loss (\S+)   d (\S+)")
    shown, page = (line.findall(text) for text in (capsys.readouterr().out, block.code))
    assert [step for step, _, _ in shown] == [step for step, _, _ in page]
    for mine, written in zip(shown, page, strict=True):
        assert float(mine[1]) == pytest.approx(float(written[1]), rel=0.2, abs=5e-5)
        assert float(mine[2]) == pytest.approx(float(written[2]), rel=0.1)
    first, last = shown[0], shown[-1]
    assert float(last[1]) < float(first[1]) / 100
    optimizer = namespace["optimizer"]
    assert optimizer.d > 1000 * optimizer.param_groups[0]["d0"]
    assert optimizer.param_groups[0]["lr"] == 1.0


def test_blocks_are_found_and_their_marks_are_known() -> None:
    found = [block for page in TEXTS for block in blocks(page)]
    fences = sum(text.count("```python") for text in TEXTS.values())
    assert len(found) == fences > 10
    for block in found:
        assert re.fullmatch(r"|ranks=[24]|no-run \w.{10,}", block.info), (
            f"{block.page}, line {block.line}: {block.info!r}"
        )


def anchors(text: str) -> set[str]:
    """Headings as GitHub names them: lower case, no punctuation, hyphens for spaces; and what the site shows from docstrings."""
    shown = set(re.findall(r"^::: ([\w.]+)$", text, re.MULTILINE))
    headings = re.findall(r"^#+ (.+)$", re.sub(r"```.*?```", "", text, flags=re.DOTALL), re.MULTILINE)
    return shown | {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", TEXTS)
def test_links_lead_somewhere(page: str) -> None:
    for found in LINK.finditer(re.sub(r"```.*?```", "", TEXTS[page], flags=re.DOTALL)):
        target, _, anchor = found["target"].partition("#")
        if target.startswith("http"):
            continue
        path = (ROOT / page).parent / target if target else ROOT / page
        assert path.exists(), found["target"]
        if anchor:
            assert anchor in anchors(path.read_text()), found["target"]


@pytest.mark.parametrize("page", TEXTS)
def test_tests_and_files_that_a_page_names_exist(page: str) -> None:
    sources = {path.stem: path.read_text() for path in (ROOT / "tests").rglob("*.py")}
    for name in set(re.findall(r"\btest_\w+", TEXTS[page])):
        assert name in sources or any(f"def {name}(" in source for source in sources.values()), name
    for name in set(re.findall(r"\b(?:tests|docs|dadapt_dist)/[\w/.-]+\w", TEXTS[page])):
        assert (ROOT / name).exists(), name
    for name in set(re.findall(r"python -m ([\w.]+)", TEXTS[page])) - {"mpi4py"}:
        path = ROOT / name.replace(".", "/")
        assert path.with_suffix(".py").exists() or (path / "__main__.py").exists(), name


@pytest.mark.parametrize("module", [dd, schedules, monitor], ids=lambda module: module.__name__)
def test_every_public_name_is_on_a_page(module: Any) -> None:
    everything = "\n".join(TEXTS.values())
    assert [name for name in module.__all__ if name not in everything] == []


@pytest.mark.parametrize("key", METHODS)
def test_every_option_and_default_is_on_the_methods_page(key: str) -> None:
    page, parameters = TEXTS["docs/methods.md"], signature(optimizers.classes()[key]).parameters.values()
    names = {p.name for p in parameters} - {"params"}
    section = page.split(f"### {class_name(METHODS[key])}\n")[1].split("\n## ")[0].split("\n### ")[0]
    said = eval(f"dict({re.sub(r'`', '', section.split('Defaults: ')[1].split('`')[1])})", {"inf": float("inf")})
    later = METHODS[key].options.later()
    own = {p.name: p.default for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD or p.name in later}
    assert said == {name: value for name, value in own.items() if name in METHODS[key].options.checks()}
    for name in (*names, "estimate", "fsdp_in_use"):
        assert re.search(rf"`{name}\b|[(\s]{name}=", page), name


def test_the_measured_table_has_every_layout() -> None:
    rows = re.findall(r"^\| ([^|]+) \| (\d) \| \d\.\de-\d+ \|", TEXTS["docs/layouts.md"], re.MULTILINE)
    assert dict(rows) == {name: str(ranks) for name, (ranks, _) in LAYOUTS.items()}


def test_the_readme_is_short() -> None:
    assert TEXTS["README.md"].count("\n") < 150
