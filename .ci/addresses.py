"""Give what is published its addresses: project URLs, and a readme whose links lead somewhere on a package index.

The build calls this. The repository's address comes from DOCS_REPOSITORY and the site's from DOCS_URL, as in mkdocs.yml;
without them the readme stays as it is, and there are no URLs.
"""

import os
import re
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface

ROOT = Path(__file__).parents[1]
REPOSITORY, DOCS = "DOCS_REPOSITORY", "DOCS_URL"
_LINK = re.compile(r"(?P<image>!?)\[(?P<text>[^\[\]]*)\]\((?P<target>[^)\s]+)\)")
_CODE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)


class Addresses(MetadataHookInterface):
    """Fills in `readme` and `urls`."""

    def update(self, metadata: dict[str, Any]) -> None:
        """Write both into the metadata; the builder calls it."""
        repository, docs = address(REPOSITORY), address(DOCS)
        text = (ROOT / "README.md").read_text(encoding="utf-8")
        metadata["readme"] = {"content-type": "text/markdown", "text": absolute(text, repository, docs)}
        metadata["urls"] = urls(repository, docs)


def address(name: str) -> str:
    """What an environment variable says, without a slash at its end; "" where it is not set.

    Raises:
        ValueError: It is not an address of a page.
    """
    given = os.environ.get(name, "").rstrip("/")
    if given and not re.fullmatch(r"https://[\w.:-]+(/[\w.~%+/-]*)?", given):
        raise ValueError(f"{name}={given!r} must be https://, a host and a path alone; unset it to build without")
    return given


def urls(repository: str, docs: str) -> dict[str, str]:
    """The project URLs that package indexes show."""
    found = {"Documentation": docs} if docs else {}
    if not repository:
        return found
    return {
        "Homepage": docs or repository,
        **found,
        "Source": repository,
        "Changelog": f"{repository}/blob/main/CHANGELOG.md",
        "Issues": f"{repository}/issues",
    }


def absolute(text: str, repository: str, docs: str) -> str:
    """The readme with links to files of the repository made absolute; code blocks are left alone.

    Pages of docs/ lead to the site where it has an address, pictures and everything else to the repository.
    """

    def link(found: re.Match[str]) -> str:
        path, mark, anchor = found["target"].partition("#")
        if re.match(r"\w+:", path) or not path:
            return found[0]
        if docs and path.startswith("docs/") and path.endswith((".md", ".png")):
            target = f"{docs}/{path.removeprefix('docs/').removesuffix('.md')}{'.html' if path.endswith('.md') else ''}"
        elif repository:
            kind = "raw" if found["image"] else "tree" if (ROOT / path).is_dir() else "blob"
            target = f"{repository}/{kind}/main/{path}"
        else:
            return found[0]
        return f"{found['image']}[{found['text']}]({target}{mark}{anchor})"

    parts, at = [], 0
    for code in _CODE.finditer(text):
        parts += [_LINK.sub(link, text[at : code.start()]), code[0]]
        at = code.end()
    return "".join([*parts, _LINK.sub(link, text[at:])])
