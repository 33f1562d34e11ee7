"""The report is one well-formed page that needs nothing else, whatever stands in the files."""

import math
import re
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from typer.testing import CliRunner, Result

from dadapt_dist.tools.cli import app
from dadapt_dist.tools.report.command import write_report
from tests.helpers.logs import records, write

VOID = {"meta", "br", "hr", "img", "link", "input"}
EVIL = "<script>alert('&\"')</script>"


class Page(HTMLParser):
    """Elements, ids, links and text of a page; raises where an element is not closed in its place."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attributes:
            assert not name.startswith("on"), name
            if name == "id":
                self.ids.append(value or "")
            if name in ("href", "xlink:href", "src", "srcset", "data", "action", "poster"):
                self.links.append(value or "")
            self.links += re.findall(r"url\(([^)]*)\)", value or "")
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attributes)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join("".join(self.words).split())


def report(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["report", *map(str, arguments)], env={"COLUMNS": "200"})


def made(tmp_path: Path, *runs: Path) -> tuple[Page, str]:
    done = report(*runs, "--out", tmp_path / "report.html")
    assert done.exit_code == 0, done.output
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    return Page(text), text


def test_the_page_of_a_run_stands_alone(tmp_path: Path) -> None:
    held = {"held_steps": lambda step: float(step > 7) + float(step > 20), "held_apart": lambda step: float(step > 20)}
    run = write(tmp_path / "run" / "metrics.jsonl", records(40, **held)).parent
    (run / "run.json").write_text('{"method": "prodigy", "options": {"betas": [0.8, 0.999]}}')
    (run / "result.json").write_text('{"held_out": 2.5}')
    page, text = made(tmp_path, run)
    assert [link for link in page.links if not link.startswith("#")] == []
    assert {link[1:] for link in page.links} <= set(page.ids)
    assert len(page.ids) == len(set(page.ids))
    assert not {"script", "link", "img", "iframe", "object", "form"} & set(page.tags)
    assert page.tags.count("svg") == 5
    assert "@import" not in text
    assert "prefers-color-scheme: dark" in text
    assert 'name="viewport"' in text
    for part in re.findall(r"<svg.*?</svg>", text, re.DOTALL):
        ET.fromstring(part)
    for said in (
        "AdamW-equivalent lr",
        "options.betas [0.8, 0.999]",
        "result.held_out 2.5",
        "From run.json, result.json",
    ):
        assert said in re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", text)), said
    assert "7 8 1 a gradient, or the loss, was not finite" in re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", text))
    assert "20 21 1 the ranks were in different steps" in re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", text))
    assert "docs/troubleshooting.md#ranks-differ" in page.text


def test_runs_are_compared_and_torn_lines_named(tmp_path: Path) -> None:
    first = write(tmp_path / "first" / "metrics.jsonl", records(30), after='{"step": 31, "lo{"step": 32}\n{"step": 33')
    adamw = [{"step": r["step"], "loss": r["loss"], "effective_lr": 1e-3} for r in records(30)]
    second = write(tmp_path / "second" / "metrics.jsonl", adamw)
    third = write(tmp_path / "third.jsonl", records(30, d=None, **{"d/text": 1e-3, "d/image": 1e-2}))
    page, text = made(tmp_path, first, second, third)
    heads = re.findall(r'<th scope="col">(.*?)</th>', text)
    assert heads[:4] == ["", "first", "second", "third.jsonl"]
    assert 'metrics.jsonl, line 31: b\'{"step": 31' in page.text
    assert "ends in a line that is not finished" in page.text
    assert "0.001 to 0.01" in page.text
    assert "third.jsonl, text" in page.text


def test_whatever_stands_in_the_files_is_escaped(tmp_path: Path) -> None:
    run = tmp_path / "a<b>&\"'$x_1$"
    write(run / "metrics.jsonl", records(9, d=None, **{f"d/{EVIL}$": 1.0}), after=f"{EVIL}\n")
    (run / "run.json").write_text('{"<script>": "<img src=x onerror=y>", "long": "' + "x" * 1000 + '"}')
    (run / "config.json").write_text(f"{EVIL}")
    page, text = made(tmp_path, run)
    assert not {"script", "img", "b"} & set(page.tags)
    assert "<script" not in text
    assert "<img src=x onerror=y>" in page.text
    assert "config.json is no well-formed JSON" in page.text


def test_a_log_with_nothing_finite_but_the_loss_has_a_page(tmp_path: Path) -> None:
    page, _ = made(tmp_path, write(tmp_path / "log.jsonl", [{"step": 1, "loss": 2.0, "d": None}]))
    assert "No log has a finite d." in page.text
    assert "The log does not count held steps." in page.text
    assert page.tags.count("svg") == 1


def test_the_page_of_a_run_without_d_says_what_it_has_instead(tmp_path: Path) -> None:
    lost = {"d": math.nan, "adamw_lr": None, "effective_lr": 0.25}
    page, _ = made(tmp_path, write(tmp_path / "log.jsonl", records(60, **lost)))
    assert "Verdict: nothing wrong." in page.text
    assert "Of d nothing is said: the method has no d: effective_lr is the learning rate" in page.text
    assert "largest learning rate0.25" in page.text
    assert "learning rate from 0.25 to 0.25" in page.text


@pytest.mark.parametrize("lines", [[], [{"step": 1, "lr": 1.0}]])
def test_a_log_without_loss_and_d_has_none(tmp_path: Path, lines: list[dict[str, float]]) -> None:
    done = report(write(tmp_path / "log.jsonl", lines), "--out", tmp_path / "report.html")
    assert done.exit_code == 2
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "report.html").exists()


def test_a_report_replaces_a_report_and_nothing_else(tmp_path: Path) -> None:
    log = write(tmp_path / "log.jsonl", records(5))
    before = log.read_bytes()
    done = report(log, "--out", log)
    assert (done.exit_code, log.read_bytes()) == (2, before)
    assert "exists and is no report: name another file with --out" in done.stderr
    assert report(log, "--out", tmp_path).exit_code == 2
    for _ in range(2):
        made(tmp_path, log)


def test_letters_that_no_file_can_hold_are_replaced(tmp_path: Path) -> None:
    write(tmp_path / "metrics.jsonl", records(9))
    (tmp_path / "config.json").write_text('{"prompt": "\\ud83d"}')
    page = write_report(tmp_path, [], tmp_path / "report.html")
    assert "<td>?</td>" in page.read_text(encoding="utf-8")
