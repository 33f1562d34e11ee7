"""Read a JSON or YAML config and list its wrong settings."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...files.bounded_read import CONFIG_BYTES, read_text
from . import deepspeed_config, huggingface_configs
from .findings import Finding, section

Checked = list[tuple[Path, str, list[Finding]]]
"""File, what kind of config it is, what is wrong in it."""


YAML_BYTES = CONFIG_BYTES // 4  # its parser is slow
MOST_VALUES = 100_000


class UnreadableError(ValueError):
    """A file is not there, is no JSON or YAML, or belongs to no framework that is known here."""


def check(path: Path, named_by: tuple[Path, ...] = ()) -> Checked:
    """What is wrong in a config, and in those that it names. Raises UnreadableError. named_by: the files that led here."""
    config = _named(path, named_by)
    if huggingface_configs.is_accelerate(config):
        own = (path, "Accelerate", list(huggingface_configs.check_accelerate(config)))
        named = section(config, "deepspeed_config").get("deepspeed_config_file")
        return [own, *(check(Path(str(named)), (*named_by, path)) if named else [])]
    if deepspeed_config.is_one(config):
        return [(path, "DeepSpeed", list(deepspeed_config.check(config)))]
    if huggingface_configs.is_trainer(config):
        own = (path, "TrainingArguments", list(huggingface_configs.check_trainer(config)))
        named = config.get("deepspeed")
        if isinstance(named, Mapping):
            return [own, (path, "its DeepSpeed", list(deepspeed_config.check(named)))]
        return [own, *(check(Path(str(named)), (*named_by, path)) if named else [])]
    raise UnreadableError(
        f"{path} is no config that is known: neither DeepSpeed's ({', '.join(deepspeed_config.MARKS)}), nor Accelerate's "
        "(distributed_type), nor the Trainer's (output_dir, learning_rate)"
    )


def _named(path: Path, named_by: tuple[Path, ...]) -> Mapping[str, Any]:
    """The settings in a file; an error says which file named it."""
    if path in named_by:
        raise UnreadableError(f"{path} names itself, by {', '.join(map(str, named_by))}")
    try:
        return _read(path)
    except UnreadableError as error:
        if not named_by:
            raise
        raise UnreadableError(f"{error}, which {named_by[-1]} names") from error


def _read(path: Path) -> Mapping[str, Any]:
    is_yaml = path.suffix in (".yaml", ".yml")
    try:
        text = read_text(path, YAML_BYTES if is_yaml else CONFIG_BYTES)
    except OSError as error:
        raise UnreadableError(f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise UnreadableError(str(error)) from error
    try:
        config = _yaml(text, path) if is_yaml else _json(text)
    except ValueError as error:
        raise UnreadableError(f"{path} is not well formed: {' '.join(str(error).split())[:300]}") from error
    except RecursionError:
        raise UnreadableError(f"{path} is not well formed: it is nested too deeply") from None
    if not isinstance(config, Mapping):
        raise UnreadableError(f"{path} holds a {type(config).__name__}, not settings by name")
    return config


def _json(text: str) -> Any:
    """DeepSpeed also takes comments and commas at the end, by a package of its own."""
    try:
        return json.loads(text)
    except ValueError:
        try:
            import hjson  # type: ignore[import-untyped]
        except ImportError:
            hjson = None
        if hjson is None:
            raise
        return hjson.loads(text)


def _yaml(text: str, path: Path) -> Any:
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
        if _size(node, {}) > MOST_VALUES:
            raise ValueError(f"its aliases make more than {MOST_VALUES} values of it")
        return loader.construct_document(node)
    except (yaml.YAMLError, ArithmeticError, AttributeError, LookupError, TypeError) as error:  # of a tag's wrong value
        raise ValueError(str(error) or type(error).__name__) from error


def _size(node: Any, known: dict[int, int]) -> int:
    """Values of a YAML node with every alias written out; each node is looked at once. ValueError where it holds itself."""
    if not isinstance(node.value, list):
        return 1
    size = known.get(id(node))
    if size is None:
        known[id(node)] = -1
        parts = [part for entry in node.value for part in (entry if isinstance(entry, tuple) else (entry,))]
        size = known[id(node)] = 1 + sum(_size(part, known) for part in parts)
    if size < 0:
        raise ValueError("a value holds itself")
    return size
