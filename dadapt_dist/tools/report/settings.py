"""Find the settings and the result of a run in the files beside its log."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ...files.bounded_read import read_json_object

FILES = ("run.json", "settings.json", "config.json", "args.json", "hparams.json", "result.json")
MOST = 200  # rows
LONGEST = 300  # letters of a value


class Settings(NamedTuple):
    """Settings by name, from the files of these names, and why a file could not be read."""

    values: dict[str, str]
    files: list[str]
    faults: list[str]


def settings_of(folder: Path) -> Settings:
    """Read the JSON files in a run's folder that usually hold settings or results; nested ones get names with dots."""
    found = Settings({}, [], [])
    for name in FILES:
        if not (folder / name).exists():
            continue
        try:
            content = read_json_object(folder / name)
        except (OSError, ValueError) as error:
            found.faults.append(str(error))
            continue
        found.files.append(name)
        prefix = "result." if name == "result.json" else ""
        for key, value in _flat(content):
            if len(found.values) < MOST:
                found.values[prefix + key] = value
    return found


def _flat(content: Mapping[str, Any], depth: int = 0) -> Iterator[tuple[str, str]]:
    for key, value in content.items():
        if isinstance(value, dict) and value and depth < 5:
            yield from ((f"{key}.{inner}", text) for inner, text in _flat(value, depth + 1))
        else:
            text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            yield key, text if len(text) <= LONGEST else f"{text[:LONGEST]}..."
