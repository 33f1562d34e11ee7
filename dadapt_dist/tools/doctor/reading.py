"""Read a JSON or YAML file as settings by name, and say of one that is none where it goes wrong."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ...files.bounded_read import CONFIG_BYTES, in_words, read_text

YAML_BYTES = CONFIG_BYTES // 4  # its parser is slow
MOST_VALUES = 100_000
MOST_SAID = 300  # letters of a parser's words


class UnreadableError(ValueError):
    """A file is not there, is no JSON or YAML, or belongs to no framework that is known here."""


class Settings(NamedTuple):
    """What a file holds.

    twice: names that stand in it twice, of which the last counts. is_plain: any reader of its format can read it; otherwise it
    has comments or other things that only DeepSpeed takes in JSON.
    """

    values: Mapping[Any, Any]
    twice: list[str]
    is_plain: bool


def read_settings(path: Path) -> Settings:
    """The settings of a file. Raises UnreadableError for one that has none."""
    is_yaml = path.suffix.lower() in (".yaml", ".yml")
    try:
        text = read_text(path, YAML_BYTES if is_yaml else CONFIG_BYTES)
    except OSError as error:
        raise UnreadableError(f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise UnreadableError(str(error)) from error
    if not text.strip():
        raise UnreadableError(f"{path} is empty")
    twice: list[str] = []
    try:
        found, is_plain = (_yaml(text, path, twice), True) if is_yaml else _json(text, twice)
    except UnreadableError:
        raise
    except ValueError as error:
        raise UnreadableError(f"{path} is not well formed: {' '.join(str(error).split())[:MOST_SAID]}") from error
    except RecursionError:
        raise UnreadableError(f"{path} is not well formed: it is nested too deeply") from None
    if found is None and is_yaml:
        raise UnreadableError(f"{path} holds no settings")
    if not isinstance(found, Mapping):
        raise UnreadableError(f"{path} holds {in_words(found)}, not settings by name")
    return Settings(found, twice, is_plain)


def _json(text: str, twice: list[str]) -> tuple[Any, bool]:
    """Values, and whether it is JSON: DeepSpeed also takes comments and commas at the end, by a package of its own."""

    def pairs(found: list[tuple[str, Any]]) -> dict[str, Any]:
        names = [name for name, _ in found]
        twice.extend(name for name in dict.fromkeys(names) if names.count(name) > 1)
        return dict(found)

    try:
        return json.loads(text, object_pairs_hook=pairs), True
    except json.JSONDecodeError as error:
        twice.clear()
        try:
            import hjson  # type: ignore[import-untyped]
        except ImportError:
            raise ValueError(_place(error, text)) from error
        try:
            return hjson.loads(text, object_pairs_hook=pairs), False
        except ValueError as other:  # whichever parser came farther has seen more of what is wrong
            farther = other if getattr(other, "pos", -1) > error.pos else error
            raise ValueError(_place(farther, text)) from error


def _place(error: Any, text: str) -> str:
    """What a parser of JSON said, and where."""
    if error.pos >= len(text.rstrip()):
        return f"it ends at line {error.lineno} in the middle of a value"
    said = "the text that begins here does not end" if error.msg.startswith("Unterminated string") else error.msg
    return f"line {error.lineno}, column {error.colno}: {said[:1].lower()}{said[1:]}"


def _yaml(text: str, path: Path, twice: list[str]) -> Any:
    """Read YAML whose aliases do not make it larger than a config is; merged sections count, too."""
    try:
        import yaml  # type: ignore[import-untyped]
    except ImportError as error:
        raise UnreadableError(f"{path}: reading YAML needs pyyaml: pip install pyyaml") from error
    try:
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
        if node is None:
            return None
        if _size(node, {}, twice) > MOST_VALUES:
            raise ValueError(f"its aliases make more than {MOST_VALUES} values of it")
        return loader.construct_document(node)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise ValueError(f"{where}{error.problem or error.context}") from error
    except (yaml.YAMLError, ArithmeticError, AttributeError, LookupError, TypeError) as error:  # of a tag's wrong value
        raise ValueError(f"a value does not fit its tag: {error or type(error).__name__}") from error


def _size(node: Any, known: dict[int, int], twice: list[str]) -> int:
    """Values of a YAML node with every alias written out; each node is looked at once. ValueError where it holds itself."""
    if not isinstance(node.value, list):
        return 1
    size = known.get(id(node))
    if size is None:
        known[id(node)] = -1
        names = [str(entry[0].value) for entry in node.value if isinstance(entry, tuple)]
        twice.extend(name for name in dict.fromkeys(names) if name != "<<" and names.count(name) > 1)
        parts = [part for entry in node.value for part in (entry if isinstance(entry, tuple) else (entry,))]
        size = known[id(node)] = 1 + sum(_size(part, known, twice) for part in parts)
    if size < 0:
        raise ValueError("a value holds itself")
    return size
