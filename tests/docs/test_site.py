"""The site builds, every page of it can be read in a browser, and so can the page that `dadapt-dist report` writes."""

import html
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from selenium.common.exceptions import StaleElementReferenceException
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait
from typer.testing import CliRunner

from dadapt_dist.tools.cli import app
from tests.helpers.browser import ROOT, WIDER, Browser, build_site, missing_browser, opened, served
from tests.helpers.logs import records, write
from tests.helpers.once import whole_once

PAGES = sorted(p.relative_to(ROOT / "docs").with_suffix(".html").as_posix() for p in (ROOT / "docs").rglob("*.md"))
WIDTHS = {"telephone": 390, "desk": 1280}
# Every page reads the index of the search as it loads, which takes longer than all else: where nothing is searched, an empty one.
_FIELDS = '{"title": {"boost": 1}, "text": {"boost": 1}, "tags": {"boost": 1}}'
_INDEX = f'{{"config": {{"lang": ["en"], "separator": " ", "pipeline": [], "fields": {_FIELDS}}}, "docs": []}}'
NO_SEARCH = {"/search/search_index.json": _INDEX.encode()}


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built once for all tests and processes."""
    with whole_once(tmp_path_factory, "site") as (folder, is_new):
        if is_new:
            build_site(folder / "pages")
    return folder / "pages"


@pytest.fixture(scope="session")
def address(site: Path) -> Iterator[str]:
    with served(site) as found:
        yield found


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    if why := missing_browser():
        pytest.skip(why)
    with opened(tmp_path_factory.mktemp("profile")) as found:
        yield found


def words(page: str) -> str:
    """The text of a page, without its code."""
    body = page[page.index("<article") : page.index("</article>")]
    return html.unescape(re.sub(r"<[^>]*>", "", re.sub(r"<(pre|code)\b.*?</\1>", "", body, flags=re.DOTALL)))


def test_all_pages_are_built_and_nothing_of_their_source_is_left(site: Path) -> None:
    """Tables, lists, code and docstrings became what they are; scripts of docs/ and other sources are not published."""
    built = {path.relative_to(site).as_posix() for path in site.rglob("*.html")} - {"404.html"}
    assert built == set(PAGES)
    assert [path for path in site.rglob("*") if path.suffix in (".py", ".pyi", ".md")] == []
    for page in PAGES:
        text = (site / page).read_text(encoding="utf-8")
        for mark in (
            r"\|---",
            r"```",
            r"^\s*>>>",
            r"\]\(",
            r"(?:^|\s)\*\*[A-Z]",
            r"^ *(?:- |\d\. )\w",
            r":::",
            r"<!--",
        ):
            assert not re.search(mark, words(text), re.MULTILINE), (page, mark)


def test_the_start_page_has_the_quick_start_of_the_readme(site: Path) -> None:
    text = html.unescape(re.sub(r"<[^>]*>", "", (site / "index.html").read_text(encoding="utf-8")))
    assert 'optimizer = Prodigy(model.parameters(), recipe="auto", total_steps=200)' in text
    assert 'href="quality.html"' in (site / "index.html").read_text(encoding="utf-8")


def test_every_page_loads_and_fits(browser: Browser, site: Path) -> None:
    """On a telephone and on a desk, without an error in the console, a failed request or one to another host."""
    with served(site, NO_SEARCH) as address:
        browser.troubles(address)
        found = {page: wrong for page in PAGES if (wrong := troubles_of(browser, address, page))}
    assert found == {}


def troubles_of(browser: Browser, address: str, page: str) -> list[str]:
    """What is wrong with a page at both widths."""
    browser.driver.get(f"{address}/{page}")
    wrong = [] if browser.driver.find_elements(By.CSS_SELECTOR, "article h1") else ["no heading"]
    for width in WIDTHS.values():
        browser.resize(width)
        if elements := browser.driver.execute_script(WIDER):
            wrong.append(f"wider than {width}: {elements}")
    return browser.troubles(address) + wrong


def test_tables_and_code_are_shown(browser: Browser, address: str) -> None:
    browser.resize(1280)
    browser.driver.get(f"{address}/reference/prodigy.html")

    def count(selector: str) -> int:
        """How many such elements have a height."""
        look = "return [...document.querySelectorAll(arguments[0])].filter(e => e.getBoundingClientRect().height > 9)"
        return len(browser.driver.execute_script(look, selector))

    assert count("article pre code") >= 6, "equations, signatures and examples of two classes"
    assert count("article .doc-section-item, article .doc-section-title") > 0
    spans = "[...document.querySelectorAll('article .highlight span')]"
    colours = f"return new Set({spans}.map(e => getComputedStyle(e).color)).size"
    assert browser.driver.execute_script(colours) > 2, "code is in colours"
    browser.driver.get(f"{address}/methods.html")
    assert count("article table td") > 50


@pytest.mark.parametrize(
    ("typed", "page"), [("Prodigy", "prodigy"), ("d stays", "troubleshooting"), ("1e-6", "troubleshooting")]
)
def test_the_search_finds_what_is_looked_for(browser: Browser, address: str, typed: str, page: str) -> None:
    browser.resize(1280)
    browser.troubles(address)
    browser.driver.get(f"{address}/index.html")
    field = browser.driver.find_element(By.CSS_SELECTOR, "input.md-search__input")
    field.click()
    field.send_keys(typed)

    def found(driver: Any) -> bool:
        """Whether it is the first that the search shows; it shows others while one types."""
        links = driver.find_elements(By.CSS_SELECTOR, ".md-search-result__item a")
        return bool(links) and page in links[0].get_attribute("href").lower()

    WebDriverWait(browser.driver, 20, ignored_exceptions=[StaleElementReferenceException]).until(found)
    assert browser.troubles(address) == []


def test_the_pages_can_be_read_without_javascript(browser: Browser, address: str) -> None:
    browser.resize(390)
    browser.scripts(False)
    try:
        for page, said in {"index.html": "Quick start", "reference/prodigy.html": "d = max(d, d_hat)"}.items():
            browser.driver.get(f"{address}/{page}")
            text = browser.html()
            assert 'class="no-js"' in text, "no script has run"
            assert said in text[text.index("<article") :]
            height = browser.command("Page.getLayoutMetrics")["cssContentSize"]["height"]
            assert height > 900, "the page shows its text"
        assert browser.troubles(address) == []
    finally:
        browser.scripts(True)


@pytest.mark.parametrize("width", WIDTHS.values(), ids=WIDTHS)
def test_the_report_of_a_run_can_be_read(browser: Browser, tmp_path: Path, width: int) -> None:
    runs = [
        write(tmp_path / name / "metrics.jsonl", records(40)) for name in ("first", "a-second-run-with-a-long-name")
    ]
    made = CliRunner().invoke(app, ["report", *map(str, runs), "--out", str(tmp_path / "report.html")])
    assert made.exit_code == 0, made.output
    browser.resize(width)
    with served(tmp_path) as address:
        browser.scripts(False)  # it has none
        try:
            browser.troubles(address)
            browser.driver.get(f"{address}/report.html")
            assert "Notes on the logs" in browser.html()
            assert browser.command("Page.getLayoutMetrics")["cssContentSize"]["width"] <= width
            assert [line for line in browser.troubles(address) if "favicon" not in line] == []
        finally:
            browser.scripts(True)
