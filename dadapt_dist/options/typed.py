"""Options as they are typed on a command line: `weight_decay=0.1,betas=(0.9, 0.99),decouple=false`."""

import ast
from typing import Any

_OPENING, _CLOSING = "([{", ")]}"
_WORDS: dict[str, Any] = {"true": True, "false": False, "none": None}


def typed_options(text: str, where: str) -> dict[str, Any]:
    """The options in a text by name, as Python's values: a word that is no literal stays text.

    Args:
        text: option=value pairs with commas between them; empty for none.
        where: what an error calls it.

    Raises:
        ValueError: a part of it is no option=value.

    Example:
        >>> typed_options("betas=(0.9, 0.99),decouple=false,recipe=auto", "--optim")
        {'betas': (0.9, 0.99), 'decouple': False, 'recipe': 'auto'}
    """
    return dict(_option(part, where) for part in split_at_commas(text))


def split_at_commas(text: str) -> list[str]:
    """Split at commas that are in no bracket."""
    parts, depth = [""], 0
    for letter in text:
        depth += (letter in _OPENING) - (letter in _CLOSING)
        if letter == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += letter
    return parts if text else []


def _option(part: str, where: str) -> tuple[str, Any]:
    name, equals, value = (piece.strip() for piece in part.partition("="))
    if not (name.isidentifier() and equals and value):
        raise ValueError(f"{where}: {part!r} must be option=value, for instance weight_decay=0.1")
    if value.lower() in _WORDS:
        return name, _WORDS[value.lower()]
    try:
        return name, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return name, value
