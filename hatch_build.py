"""Make the relative links of README.md absolute in what a package index shows: hatchling runs this when it builds.

It takes the address from `Repository` in [project.urls] of pyproject.toml; without one the text stays as it is.
"""

import re
from pathlib import Path

from hatchling.metadata.plugin.interface import MetadataHookInterface

ROOT = Path(__file__).parent
LINK = re.compile(r"(?P<image>!?)\[(?P<text>(?:[^\[\]]|\[[^\]]*\])*)\]\((?P<target>[^)\s]+)\)")
ELSEWHERE = ("http:", "https:", "mailto:", "#")


class Readme(MetadataHookInterface):
    """The field `readme` of the project."""

    def update(self, metadata: dict) -> None:
        """Set the field. In place."""
        text = (ROOT / "README.md").read_text(encoding="utf-8")
        address = metadata.get("urls", {}).get("Repository", "")
        metadata["readme"] = {"content-type": "text/markdown", "text": absolute(text, address)}


def absolute(text: str, address: str) -> str:
    """Markdown whose links into the repository lead to its address. address: empty where there is none."""
    if not address:
        return text

    def link(found: re.Match[str]) -> str:
        if found["target"].startswith(ELSEWHERE):
            return found[0]
        kind = "raw" if found["image"] else "blob"
        return f"{found['image']}[{found['text']}]({address.rstrip('/')}/{kind}/HEAD/{found['target']})"

    return LINK.sub(link, text)


def relative_links(text: str) -> list[str]:
    """Targets of links that lead nowhere outside the repository."""
    return [found["target"] for found in LINK.finditer(text) if not found["target"].startswith(ELSEWHERE)]
