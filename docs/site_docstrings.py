"""Let the site show docstrings as they are written here: griffe, which reads them, calls these functions.

It knows a section `Examples` only, which is `Example` here; and links, which are as seen from docs/, must be as seen from
docs/reference/, where docstrings are shown.
"""

import re
from typing import Any

import griffe

_LINK = re.compile(r"(?<=\]\()(?=[\w-]+\.md)")
_EXAMPLE = re.compile(r"^( *)Example:$", re.MULTILINE)


class Docstrings(griffe.Extension):
    """Rewrite docstrings before they are parsed."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Rewrite one object's docstring."""
        if obj.docstring is not None:
            obj.docstring.value = _LINK.sub("../", _EXAMPLE.sub(r"\1Examples:", obj.docstring.value))
