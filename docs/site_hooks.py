"""Turn the pages of docs/, written to be read on a code host too, into what the site generator understands: mkdocs runs this.

Four things differ. Links that leave docs/ lead to the repository, or become text where none is given. A link that is named by
its file, [kernels.md](kernels.md), is named by the heading that it leads to. Marks of code blocks that speak to the tests
(`ranks=2`, `no-run ...`) go. A line `<!-- README: Use -->` gives that section of README.md.
"""

import os
import re
from pathlib import Path
from posixpath import normpath, relpath
from typing import Any

ROOT = Path(__file__).parents[1]
_LINK = re.compile(r"(?P<image>!?)\[(?P<text>(?:[^\[\]]|\[[^\]]*\])*)\]\((?P<target>[^)\s]+)\)")
_FILE = re.compile(r"[\w./-]+\.md")
_FENCE = re.compile(r"^ *```.*?^ *```$", re.MULTILINE | re.DOTALL)
_INFO = re.compile(r"^( *```python)[^\n]+$", re.MULTILINE)
_SECTION = re.compile(r"^<!-- README: (?P<title>.+) -->$", re.MULTILINE)


def on_page_markdown(markdown: str, page: Any, config: Any, **_: Any) -> str:
    """Rewrite a page's source; mkdocs calls it. A page that is alone in its part of the site needs no list of pages beside it.

    The search shows sections of the troubleshooting page before others.
    """
    if page.parent is None:
        page.meta.setdefault("hide", ["navigation"])
    if page.file.src_uri == "troubleshooting.md":
        page.meta.setdefault("search", {"boost": 2})
    return rewritten(markdown, page.file.src_uri, str(config.repo_url or ""))


def rewritten(text: str, page: str, repository: str = "") -> str:
    """The source of a page as the site generator takes it.

    Args:
        text: Markdown.
        page: Its path below docs/, such as "tutorials/fsdp2.md".
        repository: Address of the repository; "" turns links into it into text.

    Raises:
        ValueError: A section of README.md that the page wants is not there.
    """
    folder = normpath(f"docs/{page}/..")
    text = _outside_code(text, lambda part: _links(part, folder, folder, repository))

    def of_readme(found: re.Match[str]) -> str:
        return _outside_code(section(found["title"]), lambda part: _links(part, ".", folder, repository))

    text = _SECTION.sub(of_readme, text)
    return _INFO.sub(r"\1", text)


def section(title: str) -> str:
    """The text below a heading of README.md, up to the next one of its level.

    Raises:
        ValueError: There is no such heading.
    """
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    found = re.search(rf"^## {re.escape(title)}\n(.*?)(?=^## |\Z)", readme, re.MULTILINE | re.DOTALL)
    if found is None:
        raise ValueError(f"README.md has no heading {title!r}, which a page of the site includes: name one that it has")
    return found[1].strip()


def _heading(path: str, anchor: str) -> str:
    """The heading of a page's section; of the page, without an anchor and where it is that of no heading; or the path."""
    text = _FENCE.sub("", (ROOT / path).read_text(encoding="utf-8"))
    headings: list[str] = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    named = [heading for heading in headings if slug(heading) == anchor]
    return next(iter([*named, *headings]), path)


def slug(heading: str) -> str:
    """The anchor of a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def _outside_code(text: str, change: Any) -> str:
    """Apply a change to what is not in fenced blocks."""
    parts, at = [], 0
    for fence in _FENCE.finditer(text):
        parts += [change(text[at : fence.start()]), fence[0]]
        at = fence.end()
    return "".join([*parts, change(text[at:])])


def _links(text: str, written_in: str, shown_in: str, repository: str) -> str:
    """The text with its links as seen from the folder `shown_in`; they are written as seen from `written_in`."""

    def link(found: re.Match[str]) -> str:
        path, hash_mark, anchor = found["target"].partition("#")
        if re.match(r"\w+:", path) or not path:
            return found[0]
        target = normpath(os.path.join(written_in, path))
        if target.startswith("docs/") and (ROOT / target).is_file() and not target.endswith(".py"):
            shown = _heading(target, anchor) if _FILE.fullmatch(found["text"]) else found["text"]
            return f"{found['image']}[{shown}]({relpath(target, shown_in)}{hash_mark}{anchor})"
        if not repository:
            return found["text"]
        kind = "tree" if (ROOT / target).is_dir() else "blob"
        return f"[{found['text']}]({repository.rstrip('/')}/{kind}/main/{target}{hash_mark}{anchor})"

    return _LINK.sub(link, text)
